"""How far the model with its own, soft gates can be from the hard network after n tokens, for one layer.

Let h be the hard network's entries, g the soft gates of a row over the previous entries u of its block and the input,
and s the slot that the row chooses. With e the error of the entries before,

    soft - hard = sum_k g_k (u_k + e_k) - u_s = sum_k g_k e_k + sum_{k != s} g_k (u_k - u_s)

and since sum_k |g_k| = 1, the largest error in a block grows by at most (1 - g_s) times the width of what its entries
can hold: linearly, whatever the word. Signed gates: sum_k |g_k - g_k^hard| = 2 (1 - |g_s|), times the largest entry.
Soft entries are convex combinations of written values and zero, so they never leave that interval either. Both bounds
get room for rounding at every step; a row that the model's arithmetic makes one-hot copies exactly.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.bounds import Array
from seqmix.inspect.certificates.machine import Machine, Tokens

__all__ = ["Drift", "drift_of", "longest"]

FOREVER = 2**62  # lengths that are not told apart from every length


class Drift(NamedTuple):
    """Error of each entry (K,) at the first token and for each later one, and the interval that holds them all.

    gap is the largest sum of gates that were not chosen.
    """

    first: Array
    later: Array
    rounding: Array
    low: Array
    high: Array
    gap: float

    @property
    def none(self) -> bool:
        """Whether nothing ever moves."""
        return not (self.first.any() or self.later.any())

    def after(self, steps: int) -> Callable[[Array, Array], Array]:
        """Radii (P, K) of soft entries after 1 + `steps` tokens, from values and radii (P, K) of hard ones."""
        error = (self.first + float(steps) * self.later) * (1 + 1e-9)
        room = (1.0 + steps) * self.rounding

        def radii(value: Array, radius: Array) -> Array:
            whole = np.maximum(self.high - value, value - self.low) + room
            return np.minimum(radius + error, np.maximum(whole, radius))

        return radii


def drift_of(machine: Machine, inputs: Tokens, first_inputs: Tokens) -> Drift:
    """The drift of a network of one layer over the tokens that may come first and later."""
    layer, choices = machine.network.layers[0], machine.known[0].choices
    n, m = layer.n_blocks, layer.m
    every = np.union1d(inputs, first_inputs)

    def by_block(values: NDArray[Any]) -> NDArray[Any]:
        return values.reshape(len(values), n, m)

    value, radius = by_block(choices.value[every]), by_block(choices.radius[every])
    high = np.maximum((value + radius).max((0, 2)), 0)
    low = np.minimum((value - radius).min((0, 2)), 0)
    largest = np.maximum(high, -low)
    if layer.signed:
        low, high = -largest, largest
    rounding = machine.network.rounding.gamma(2 * m) * largest + 2 * (m + 1) * machine.network.rounding.least
    # Signed gates may turn u into -u: the width is twice the largest entry in both cases.
    width = high - low

    def growth(numbers: NDArray[np.int64]) -> Array:
        if not len(numbers):
            return np.zeros(n)
        gap, exact = by_block(choices.gap[numbers]), by_block(choices.exact[numbers])
        step = np.where(exact, 0.0, gap * width[:, None] + rounding[:, None])
        return step.max((0, 2))

    def wide(values: Array) -> Array:
        return np.repeat(values, m)

    return Drift(
        first=wide(growth(first_inputs)),
        later=wide(growth(inputs)),
        rounding=wide(rounding),
        low=wide(low),
        high=wide(high),
        gap=float(choices.gap[every].max()),
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
