"""SAM at saddles and in valleys (Compagnoni et al. 2023, 2301.08203).

`saddle`: f = (x^2 - y^2) / 2 from (.01, .01); how many steps until |y| > 1 (at most 20,000). `valley`: f = (1 - x y)^2
/ 2 with noise in the label, from x^2 + y^2 = 16 on xy = 1; x^2 + y^2 at the end, 2 at the flattest minimum, and how
far |1 - xy| is from the valley.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

__all__ = ["run"]

Gradient = Callable[[Tensor], Tensor]


def run(seed: int, place: str, method: str, rho: float = 0.1, noise: float = 0.0, lr: float = 0.05) -> dict[str, float]:
    """`steps` at the saddle, `size` in the valley; of `gd`, `usam` (no norm in the step up), `sam`."""
    generator = torch.Generator().manual_seed(seed)
    if place == "saddle":
        z = torch.full((2,), 0.01, dtype=torch.float64)
        steps = 0
        while steps < 20_000 and abs(float(z[1])) <= 1:
            steps += 1
            xi = noise * torch.randn(2, generator=generator, dtype=torch.float64)
            z = z - lr * _perturbed(z, method, rho, lambda w, xi=xi: torch.stack([w[0], -w[1]]) + xi)  # type: ignore[misc]
        return {"steps": float(steps)}
    large = math.sqrt((16 + math.sqrt(16**2 - 4)) / 2)
    z = torch.tensor([large, 1 / large], dtype=torch.float64)
    for _ in range(20_000):
        label = 1 + noise * float(torch.randn((), generator=generator, dtype=torch.float64))
        z = z - 0.01 * _perturbed(z, method, rho, lambda w, label=label: (w[0] * w[1] - label) * w.flip(0))  # type: ignore[misc]
    return {"size": float(z.square().sum()), "miss": abs(1 - float(z[0] * z[1]))}


def _perturbed(z: Tensor, method: str, rho: float, gradient: Gradient) -> Tensor:
    g = gradient(z)
    if method == "gd":
        return g
    up = rho * g / g.norm().clamp_min(1e-300) if method == "sam" else rho * g
    return gradient(z + up)
