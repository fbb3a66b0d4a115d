"""Noise that prefers flat minima, on a valley whose curvature is known (Orvieto et al. 2022, 2202.02831; 2209.09162).

L(u, v) = v^2 |u|^2 / 2 in d + 1 dimensions, down which the library's own wrappers go around gradient descent; on the
valley, v = 0, the trace of the Hessian is |u|^2, 100 at the start. Noise of `fractional` with Hurst index 1/2 is
independent (PGD), `anti` has the difference of two.
"""

import math

import torch

from seqmix.optim import AntiPGD, FractionalPGD

__all__ = ["run"]


def run(
    seed: int, noise: str, sigma: float = 0.02, hurst: float = 0.5, steps: int = 10_000, d: int = 100, lr: float = 0.01
) -> dict[str, float]:
    """The `trace` |u|^2 + d v^2 after the steps; noise is `none`, `independent`, `anti` or `fractional`."""
    u = torch.full((d,), math.sqrt(100 / d), dtype=torch.float64, requires_grad=True)
    v = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer: torch.optim.Optimizer = torch.optim.SGD([u, v], lr=lr, foreach=False)
    if noise == "anti":
        optimizer = AntiPGD(optimizer, sigma=sigma, seed=seed)
    elif noise != "none":
        hurst = hurst if noise == "fractional" else 0.5
        optimizer = FractionalPGD(optimizer, hurst=hurst, sigma=sigma, seed=seed)
    for _ in range(steps):
        a, b = u.detach(), v.detach()
        u.grad, v.grad = b * b * a, b * (a @ a)
        optimizer.step()
        if not math.isfinite(float(b)) or abs(float(b)) > 1e6:
            return {"trace": math.inf}
    return {"trace": float(u.detach() @ u.detach() + d * v.detach() ** 2)}
