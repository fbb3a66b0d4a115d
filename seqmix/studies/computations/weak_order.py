"""How far a method is from its stochastic differential equation (2411.15958, 2301.08203, 2402.12508):
`seqmix.optim.sde`.

E f(X) at a fixed time, by the method with rate eta and by its equation with 16 steps for each of its own, on the same
Brownian paths: the step of the method sees the sum of the increments, so that the difference has little noise.
"""

import math

import torch

from seqmix.optim.sde import GAME, Quadratic, discrete, euler_maruyama

__all__ = ["run"]


def run(
    seed: int, method: str, eta: float, time: float = 0.8, paths: int = 20_000, noise: float = 1.0, fine: int = 16
) -> dict[str, float]:
    """`error` |E f - E f| over E f of the equation, its standard error `sampling`, and `variance`.

    The last is by how much the variance of the method is off the equation's: without noise there would be none.
    """
    problem = Quadratic(noise=noise)
    steps = round(time / eta)
    generator = torch.Generator().manual_seed(seed)
    noises = torch.randn(steps, fine, paths, 2, generator=generator, dtype=torch.float64)
    start = torch.tensor([2.0, -2.0], dtype=torch.float64).expand(paths, 2)
    coarse = noises.sum(1) / math.sqrt(fine)
    here = discrete(method, problem, start, coarse, eta)
    there = euler_maruyama(method, problem, start, noises.flatten(0, 1), eta, eta / fine)
    variances = [float(z.var(0).sum()) for z in (here, there)]
    value = (lambda z: z.square().sum(-1)) if method in GAME else problem.value
    difference, expected = value(here) - value(there), value(there).mean()
    return {
        "error": float((difference.mean() / expected).abs()),
        "sampling": float(difference.std() / math.sqrt(paths) / expected.abs()),
        "value": float(value(here).mean()),
        "variance": abs(variances[0] / variances[1] - 1),
    }
