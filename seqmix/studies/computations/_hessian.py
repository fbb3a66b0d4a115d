"""Curvature of a loss from products of its Hessian with vectors."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["hessian_trace", "largest_eigenvalue"]


def largest_eigenvalue(
    gradients: Sequence[Tensor], parameters: Sequence[Tensor], start: Sequence[Tensor], steps: int
) -> float:
    """By power iteration from `start`; `gradients` know how they came about (`create_graph`)."""
    vectors, largest = list(start), 0.0
    for _ in range(steps):
        size = _norm(vectors).clamp_min(1e-300)
        vectors = [v / size for v in vectors]
        vectors = list(torch.autograd.grad(gradients, parameters, vectors, retain_graph=True))
        largest = float(_norm(vectors))
    return largest


def hessian_trace(gradients: Sequence[Tensor], parameters: Sequence[Tensor], seed: int, draws: int = 20) -> float:
    """By Hutchinson's estimate, with signs from the seed."""
    generator, total = torch.Generator().manual_seed(seed), 0.0
    for _ in range(draws):
        signs = [torch.randint(2, p.shape, generator=generator) * 2.0 - 1 for p in parameters]
        products = torch.autograd.grad(gradients, parameters, signs, retain_graph=True)
        total += sum(float((p * s).sum()) for p, s in zip(products, signs, strict=True))
    return total / draws


def _norm(vectors: Sequence[Tensor]) -> Tensor:
    return torch.sqrt(sum((v**2).sum() for v in vectors))  # type: ignore[arg-type]
