"""Gradient and curvature of deep chains (Orvieto et al. 2021, 2106.03763).

x_{l+1} = relu(W_l x_l) with He's start, read by a sum, squared; the gradient of the middle layer over sqrt(depth), and
the largest eigenvalue of its Hessian by power iteration. With `residual` x_{l+1} = x_l + W_l relu(norm(x_l)) /
sqrt(depth).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.studies.computations._hessian import largest_eigenvalue

__all__ = ["run"]


def run(seed: int, depth: int, width: int, residual: bool = False, power_steps: int = 12) -> dict[str, float]:
    """`gradient` and `hessian` of the middle weight, for a batch of 8 random inputs."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    weights = [normal(width, width) * math.sqrt(2 / width) for _ in range(depth)]
    x, read = normal(8, width), normal(width) / math.sqrt(width)
    middle = weights[depth // 2].requires_grad_()
    h = x
    for weight in weights:
        branch = F.layer_norm(h, (width,)).relu() @ weight.T / math.sqrt(depth) if residual else h @ weight.T
        h = h + branch if residual else branch.relu()
    loss = (h @ read).square().mean() / 2
    (gradient,) = torch.autograd.grad(loss, middle, create_graph=True)
    largest = largest_eigenvalue((gradient,), [middle], [normal(width, width)], power_steps)
    return {"gradient": float(gradient.detach().norm()) / math.sqrt(depth), "hessian": largest}
