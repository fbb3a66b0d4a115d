"""How far the model with its own, soft gates can be from the hard network after n tokens, for one layer.

Let u be the hard network's entries of a block and its inputs, |u| <= L, s the slot that a row chooses, g its soft gates
with sum_k |g_k| = 1, and e the errors of the entries before. The model's own arithmetic makes of a row

    soft = sum_k g_k (1 + r_k) (u_k + e_k) + l,    |r_k| <= gamma, |l| <= what underflow takes

    soft - hard = sum_k g_k e_k + sum_{k != s} g_k (u_k - u_s) + sum_k g_k r_k (u_k + e_k) + l

so that the largest error E in a block obeys E' <= (1 + gamma) E + d, d = (1 - g_s) width + gamma L + l, whatever the
word. Rounded gates may sum to more than one: what they add is itself multiplied by them, and

    E after 1 + n tokens <= (1 + gamma)^n d_first + ((1 + gamma)^n - 1) / gamma d_later.

Signed gates: sum_k |g_k - g_k^hard| = 2 (1 - |g_s|), times L. In exact arithmetic soft entries are convex combinations
of written values and zero and stay in their interval; rounded ones leave it by R' <= (1 + gamma) R + gamma L + l at
most. A row that the model's arithmetic makes one-hot copies exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.bounds import Array, Rounding
from seqmix.inspect.certificates.machine import Tokens
from seqmix.inspect.certificates.network import Choices, Layer

__all__ = ["FOREVER", "Drift", "drift_of", "longest"]

FOREVER = 2**62  # lengths that are not told apart from every length
_ROOM = 1e-9  # for the rounding of these bounds themselves, in float64


class Drift(NamedTuple):
    """What each entry (K,) is moved by at the first token and at each later one, and the interval that holds them all.

    rounding is the part of it that comes of rounding, gamma the share by which a step enlarges what was there before;
    gap is the largest sum of gates that were not chosen. From `most` on the model may overflow.
    """

    first: Array
    later: Array
    rounding: Array
    low: Array
    high: Array
    gap: float
    gamma: float
    most: float

    @property
    def none(self) -> bool:
        """Whether nothing ever moves."""
        return not (self.first.any() or self.later.any())

    def after(self, steps: float, spare: float = 0.0) -> Callable[[Array, Array], Array]:
        """Radii (P, K) of soft entries after 1 + `steps` tokens, from values and radii (P, K) of hard ones.

        `spare` is a relative addition, so that who evaluates the bound in another order comes to less.
        """
        scale = 1 + _ROOM + spare
        with np.errstate(over="ignore", invalid="ignore"):
            error = (_times(self.first, self._grown(steps)) + _times(self.later, self._summed(steps))) * scale
            room = _times(self.rounding, self._summed(1 + steps)) * scale

        def radii(value: Array, radius: Array) -> Array:
            with np.errstate(over="ignore", invalid="ignore"):
                whole = np.maximum(self.high - value, value - self.low) * scale + room
                moved = np.minimum(radius + error, np.maximum(whole, radius))
                return np.where(np.abs(value) + moved < self.most, moved, np.inf)

        return radii

    def _grown(self, steps: float) -> float:
        """(1 + gamma)^steps."""
        return float(np.exp(float(steps) * np.log1p(self.gamma)))

    def _summed(self, steps: float) -> float:
        """1 + (1 + gamma) + ... + (1 + gamma)^(steps - 1)."""
        return float(np.expm1(float(steps) * np.log1p(self.gamma))) / self.gamma


def _times(values: Array, factor: float) -> Array:
    """values * factor, where nothing stays nothing however large the factor."""
    return np.where(values == 0, 0.0, values * factor)


def drift_of(layer: Layer, choices: Choices, rounding: Rounding, later: Tokens, first: Tokens) -> Drift:
    """The drift of a network of one layer over the inputs that may come `first` and `later`, by number."""
    n, m = layer.n_blocks, layer.m
    every = np.union1d(later, first)

    def by_block(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(len(values), n, m)

    value, radius = by_block(choices.value[every]), by_block(choices.radius[every])
    high = np.maximum((value + radius).max((0, 2)), 0)
    low = np.minimum((value - radius).min((0, 2)), 0)
    largest = np.maximum(high, -low)
    if layer.signed:
        low, high = -largest, largest
    gamma = rounding.gamma(2 * m)
    rounded = gamma * largest + 2 * (m + 1) * rounding.least
    # Signed gates may turn u into -u: the width is twice the largest entry in both cases.
    width = high - low

    def growth(numbers: Tokens) -> Array:
        if not len(numbers):
            return np.zeros(n)
        gap, exact = by_block(choices.gap[numbers]), by_block(choices.exact[numbers])
        step = np.where(exact, 0.0, gap * width[:, None] + rounded[:, None])
        return step.max((0, 2))

    def wide(values: Array) -> Array:
        return np.repeat(values, m)

    return Drift(
        first=wide(growth(first)),
        later=wide(growth(later)),
        rounding=wide(rounded),
        low=wide(low),
        high=wide(high),
        gap=float(choices.gap[every].max()),
        gamma=gamma,
        most=rounding.most,
    )


def longest(holds: Callable[[int, NDArray[np.int64]], NDArray[np.bool_]], points: int, batch: int) -> int:
    """The largest number n of steps, up to `FOREVER`, such that `holds(n, rows)` is true for every row < points.

    What holds at n must hold at less; -1 if something does not hold at 0.
    """
    best = FOREVER
    for begin in range(0, points, batch):
        rows = np.arange(begin, min(points, begin + batch))
        rows = rows[~holds(best, rows)]
        if not len(rows):
            continue
        good, bad = -1, best
        while bad - good > 1:
            # Halve the exponent while the two are far apart.
            middle = (good + bad) // 2 if bad <= 4 * max(good, 1) else int(np.sqrt(max(good, 1) * float(bad)))
            middle = min(max(middle, good + 1), bad - 1)
            failing = rows[~holds(middle, rows)]
            if len(failing):
                bad, rows = middle, failing
            else:
                good = middle
        best = good
        if best < 0:
            return -1
    return best
