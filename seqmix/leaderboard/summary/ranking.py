"""Bootstrap intervals of many cells at once, and ranks that do not pretend to know more than they do."""

import functools
from collections import Counter
from collections.abc import Sequence

import numpy as np

from seqmix.leaderboard.summary.statistics import bootstrap_rows

__all__ = ["Interval", "mean_interval", "median_interval", "ranks"]

Interval = tuple[float, float]

_TAILS = (0.025, 0.975)
_ROUNDING = 1e-9


def median_interval(values: Sequence[float]) -> Interval | None:
    """95 % percentile bootstrap interval of the median, infinite values included; None of a single value."""
    if len(values) < 2:
        return None
    data = np.sort(np.asarray(values, dtype=np.float64))
    # Of sorted values the draws differ in indices alone, so that they are made and sorted once for each n.
    low, high = _middles(len(data))
    with np.errstate(invalid="ignore"):  # inf - inf, where half of a pair is infinite and so is its mean
        medians = np.sort((data[low] + data[high]) / 2)
    at = [tail * (len(medians) - 1) for tail in _TAILS]
    # Interpolated as in numpy's quantile, but for neighbours that are infinite.
    pairs = [(medians[int(k)], medians[min(int(k) + 1, len(medians) - 1)], k % 1) for k in at]
    found = [float(a if a == b else a + (b - a) * part) for a, b, part in pairs]
    return found[0], found[1]


@functools.lru_cache(maxsize=64)
def _middles(n: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.sort(bootstrap_rows(n), axis=1)
    return rows[:, (n - 1) // 2].copy(), rows[:, n // 2].copy()


@functools.lru_cache(maxsize=64)
def _counts(n: int) -> np.ndarray:
    """How often each draw takes each of n values, (draws, n)."""
    rows = bootstrap_rows(n)
    return np.stack([(rows == index).sum(axis=1) for index in range(n)], axis=1).astype(np.float64)


@functools.lru_cache(maxsize=256)
def _order(index: int) -> np.ndarray:
    return np.random.default_rng(index).permutation(len(bootstrap_rows(1)))


def mean_interval(groups: Sequence[Sequence[float]]) -> Interval:
    """95 % percentile bootstrap interval of the mean over groups of their means, for scores in [0, 1].

    Each group is drawn for itself (stratified). A group of one value says nothing about its spread: it enters with 0 in
    the lower bound and with 1 in the upper.

    Example:
        >>> mean_interval([[0.5, 0.5], [1.0]])
        (0.25, 0.75)
    """
    total: np.ndarray | float = 0.0
    unknown = 0
    for index, group in enumerate(groups):
        if len(group) < 2:
            unknown += 1
            continue
        data = np.asarray(group, dtype=np.float64)
        means = _counts(len(data)) @ data / len(data)
        # The same draws in another order: groups of equal size must not move together.
        total = total + (means if index == 0 else means[_order(index)])
    low, high = np.quantile(total, _TAILS) if unknown < len(groups) else (0.0, 0.0)
    return float(low) / len(groups), (float(high) + unknown) / len(groups)


def ranks(intervals: Sequence[Interval], solved: Sequence[int | None] = ()) -> list[tuple[int, bool]]:
    """Rank of each, and whether it shares it; `intervals` are those of scores in order, the best first.

    The best entry and those after it that it is not surely better than share rank 1: those whose intervals do not lie
    below its own. The first that does is the best of the next group, whose rank is its place (1, 1, 3); and so on. So
    ranks follow the order of the scores; of two in a group, neither the best of it, one may still be surely better.
    With `solved`, the seeds of each that solved the task, nothing that no seed solved shares a rank with what some did.

    Example:
        >>> ranks([(0.8, 1.0), (0.7, 0.85), (0.5, 0.75)])
        [(1, True), (1, True), (3, False)]
        >>> ranks([(0.8, 1.0), (0.7, 0.9)], [4, 0])
        [(1, False), (2, False)]
    """
    found: list[int] = []
    for place, (_, high) in enumerate(intervals):
        # Apart by more than rounding.
        first = found[-1] - 1 if found else 0
        apart = place == 0 or high < intervals[first][0] - _ROUNDING
        apart = apart or (bool(solved) and bool(solved[place]) != bool(solved[first]))
        found.append(place + 1 if apart else found[-1])
    shared = Counter(found)
    return [(rank, shared[rank] > 1) for rank in found]
