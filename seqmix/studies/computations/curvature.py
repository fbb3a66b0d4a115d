"""Gradient and curvature of deep chains (Orvieto et al. 2021, 2106.03763).

x_{l+1} = relu(W_l x_l) with He's start, read by a sum, squared; the gradient of the middle layer over sqrt(depth), and
the largest eigenvalue of its Hessian by power iteration. With `residual` x_{l+1} = x_l + W_l relu(norm(x_l)) /
sqrt(depth).
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

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
    vector, largest = normal(width, width), 0.0
    for _ in range(power_steps):
        vector = vector / vector.norm().clamp_min(1e-300)
        (vector,) = torch.autograd.grad(gradient, middle, vector, retain_graph=True)
        largest = float(vector.norm())
    return {"gradient": float(gradient.detach().norm()) / math.sqrt(depth), "hessian": largest}
