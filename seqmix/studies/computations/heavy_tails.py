"""Signs against gradients of heavy tails (Compagnoni et al. 2025, 2506.00181): distributed descent with workers.

f(x) = sum cosh(x_i) - 1, which is (L0, L1)-smooth; each of 8 workers sees its gradient with noise of Student's t. They
send the gradient, its sign, or two coordinates of eight at random, and the mean is the step.
"""

import math

import torch

__all__ = ["run"]


def run(
    seed: int, method: str, freedom: float, lr: float, steps: int = 2000, workers: int = 8, d: int = 8
) -> dict[str, float]:
    """`loss` over the last quarter, infinite where |x| passed 50; `diverged` 0 or 1; `freedom` 0 is Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    x, losses = torch.ones(d, dtype=torch.float64), []
    for step in range(steps):
        noise = torch.randn(workers, d, generator=generator, dtype=torch.float64)
        if freedom:  # a normal over the root of a chi squared over its degrees
            # chi squared of fractional degrees by Gamma(freedom / 2, 2)
            chi = torch._standard_gamma(torch.full((workers, d), freedom / 2, dtype=torch.float64), generator=generator)
            noise = noise / (2 * chi / freedom).sqrt()
        gradients = torch.sinh(x) + noise
        if method == "sign":
            gradients = gradients.sign()
        elif method == "random 2":
            kept = torch.rand(workers, d, generator=generator).argsort(-1) < 2
            gradients = gradients * kept * (d / 2)
        x = x - lr * gradients.mean(0)
        if not x.abs().max() < 50:
            return {"loss": math.inf, "diverged": 1.0}
        if step >= 3 * steps // 4:
            losses.append(float((torch.cosh(x) - 1).sum()))
    return {"loss": sum(losses) / len(losses), "diverged": 0.0}
