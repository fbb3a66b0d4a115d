"""FractionalPGD: noise whose increments are those of fractional Brownian motion, around any optimizer.

    x_{k+1} = x_k - (step of the optimizer) + sigma (B_H(k+1) - B_H(k))
    cov of increments at distance j:  (|j+1|^2H - 2 |j|^2H + |j-1|^2H) / 2

H = 1/2 is PGD (independent noise), H -> 0 the increments of Anti-PGD, H > 1/2 persistent noise. Source: 2209.09162.
Each increment is drawn from its conditional distribution given those before (Durbin and Levinson's recursion): exact
for the first `memory` steps, then with the covariance right up to that distance.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from seqmix._checks import is_number, positive
from seqmix.optim.anti_pgd import NoiseWrapper

__all__ = ["FractionalPGD", "fractional_covariance", "predictors"]


class FractionalPGD(NoiseWrapper):
    """Fractional noise around an optimizer; `memory` more buffers, none at H = 1/2.

    Args:
        base: any torch optimizer; by name `create_optimizer("fractional-pgd", model, base={"name": "sgd"}, lr=0.1)`.
        sigma: standard deviation of an increment.
        hurst: H in (0, 1).
        memory: increments that are remembered.
        seed: of the noise.

    Raises:
        ValueError: a base that is no optimizer, or a value out of range.
        NotImplementedError: sharded or complex parameters.

    Example:
        >>> import torch
        >>> from seqmix.optim import FractionalPGD
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = FractionalPGD(torch.optim.SGD(layer.parameters(), lr=0.1), sigma=0.01, hurst=0.25)
        >>> layer(torch.ones(2, 3)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self, base: Optimizer, sigma: float = 1e-2, hurst: float = 0.25, memory: int = 16, seed: int = 0
    ) -> None:
        if not is_number(hurst) or not 0 < hurst < 1:
            raise ValueError(f"FractionalPGD: hurst must be in (0, 1), got {hurst!r}")
        self.hurst, self.memory = float(hurst), positive("FractionalPGD", "memory", memory, what="at least 1")
        super().__init__(base, sigma, seed)

    def _inject(self, p: Tensor, group: dict[str, Any], stream: torch.Generator) -> None:
        fresh = torch.empty_like(p).normal_(generator=stream)
        if self.hurst != 0.5:
            self._begin(p)
            state = self.state[p]
            past, drawn = state["increments"], state["increments_drawn"]
            fresh.mul_(predictors(self.hurst, self.memory)[min(drawn, self.memory)][1])
            if drawn:
                row = drawn if drawn < self.memory else self.memory + drawn % self.memory
                placed = _placed(self.hurst, self.memory, past.dtype, past.device)[row]
                fresh.add_(torch.tensordot(placed, past, 1))
            past[drawn % self.memory] = fresh
            state["increments_drawn"] = drawn + 1
        p.add_(fresh, alpha=group["sigma"])

    def _begin(self, p: Tensor) -> None:
        state = self.state[p]
        if self.hurst != 0.5 and "increments" not in state:
            state["increments"], state["increments_drawn"] = p.new_zeros((self.memory, *p.shape)), 0

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "hurst": self.hurst, "memory": self.memory}


def fractional_covariance(hurst: float, distance: int) -> float:
    """Covariance of two unit increments of fractional Brownian motion at this distance."""
    j, power = abs(distance), 2 * hurst
    return 0.5 * (abs(j + 1) ** power - 2 * j**power + abs(j - 1) ** power)


@cache
def predictors(hurst: float, memory: int) -> list[tuple[list[float], float]]:
    """For 0 .. memory increments seen: weights of the last, the one before ..., and the deviation of what is new."""
    found: list[tuple[list[float], float]] = [([], 1.0)]
    weights: list[float] = []
    variance = 1.0
    for order in range(1, memory + 1):
        explained = sum(w * fractional_covariance(hurst, order - j) for j, w in enumerate(weights, 1))
        last = (fractional_covariance(hurst, order) - explained) / variance
        weights = [w - last * v for w, v in zip(weights, reversed(weights), strict=True)] + [last]
        variance *= 1 - last * last
        found.append((list(weights), variance**0.5))
    return found


@cache
def _placed(hurst: float, memory: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Weights (2 memory, memory) of the buffers after 0 .. 2 memory - 1 increments; from memory on they turn in a ring.

    The increment j steps before step k lies at (k - j) mod memory. Kept on the device, which a copy would wait for.
    """
    table = torch.zeros(2 * memory, memory, dtype=torch.float64)
    for drawn in range(2 * memory):
        for j, weight in enumerate(predictors(hurst, memory)[min(drawn, memory)][0], 1):
            table[drawn, (drawn - j) % memory] = weight
    return table.to(device, dtype)
