"""Gradients of queries against those of values in deep attention (Noci et al. 2022, 2206.03126).

One head, x <- x + scale A(norm(x)) V norm(x) over `depth` layers, Xavier's start, no causal mask, loss from a random
read-out of every token. `ratio` is |grad W_Q| / |grad W_V|, over all layers.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["run"]


def run(
    seed: int, depth: int, scaled: bool, cosine: float = 0.0, d_model: int = 64, length: int = 32
) -> dict[str, float]:
    """With tokens whose pairs have this cosine in the mean."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x = math.sqrt(1 - cosine) * normal(length, d_model) + math.sqrt(cosine) * normal(1, d_model)
    weights = normal(depth, 3, d_model, d_model).mul_(1 / math.sqrt(d_model)).requires_grad_()
    scale = 1 / math.sqrt(depth) if scaled else 1.0
    read = normal(length, d_model)
    for q, k, v in weights:
        u = F.layer_norm(x, (d_model,))
        scores = (u @ q) @ (u @ k).T / math.sqrt(d_model)
        x = x + scale * scores.softmax(-1) @ (u @ v)
    loss = (x * read).sum()
    (gradient,) = torch.autograd.grad(loss, weights)
    queries, values = (gradient[:, index].norm() for index in (0, 2))
    return {"ratio": float(queries / values)}
