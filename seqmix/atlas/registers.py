"""Bits that letters hold, set or flip, and whether they and the last letter tell the answers of an automaton.

With a window of two, what a letter does may depend on the letter before it, the BOS included, but the value that it
sets on itself alone.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.atlas.separate import ReadOut, read_out
from seqmix.tasks.automata.core import Core

__all__ = ["FLIP", "HOLD", "Registers", "registers"]

HOLD, FLIP = 2, 3  # beside 0 and 1, values to set
_MOST_POINTS = 10
_MOST_KEPT = 400

Table = NDArray[np.int64]


class Registers(NamedTuple):
    """ops (R, L + 1, L): what letter x does after letter y, the last y being the BOS; start (R,); read: logits of the
    bits and of one-hot last letters, (R + L,)."""

    ops: Table
    start: Table
    read: ReadOut

    @property
    def by_letter(self) -> bool:
        """Whether the letter before never matters."""
        return bool((self.ops == self.ops[:, :1]).all())


def registers(core: Core, window: int = 1, *, flips: bool = False) -> Registers | None:
    """Bits for an automaton, few where few do; None where none of the bits that are looked at do."""
    letters = core.step.shape[1]
    if core.n_states > _MOST_POINTS:
        return None
    points = _points(core)
    count = core.n_states if window == 1 else len(points)
    if count > _MOST_POINTS:
        return None
    found: list[tuple[Table, Table]] = []
    for number in range(1, 2**count - 1):
        values = number >> np.arange(count) & 1
        bits = values[[q for q, _ in points]] if window == 1 else values
        ops = _ops(core, points, bits, window, flips)
        # A bit and its complement say the same.
        if ops is not None and bits[0] == 0:
            found.append((bits, ops))
        if len(found) > _MOST_KEPT:
            return None
    asked = np.array([i for i, (q, y) in enumerate(points) if y < letters and core.asked[q]])
    last = np.array([[y == letter for letter in range(letters)] for _, y in points], dtype=np.float64)[asked]
    answers = core.answers[[points[i][0] for i in asked]]
    n = int(answers.max()) + 1

    def told(chosen: list[tuple[Table, Table]]) -> ReadOut | None:
        bits = np.array([bits[asked] for bits, _ in chosen], dtype=np.float64).reshape(len(chosen), len(asked)).T
        return read_out(np.concatenate([bits, last], 1), answers, n)

    read = told(found)
    if read is None:
        return None
    for each in list(found):
        rest = [other for other in found if other is not each]
        if (fewer := told(rest)) is not None:
            found, read = rest, fewer
    ops = np.array([ops for _, ops in found]).reshape(len(found), letters + 1, letters)
    return Registers(ops, np.array([bits[0] for bits, _ in found], dtype=np.int64), read)


def _points(core: Core) -> list[tuple[int, int]]:
    """States with the letter that led to them, which is the number of letters at the start."""
    points = [(0, core.step.shape[1])]
    for state, _ in points:
        for letter in range(core.step.shape[1]):
            after = (int(core.step[state, letter]), letter)
            if after not in points:
                points.append(after)
    return points


def _ops(core: Core, points: list[tuple[int, int]], bits: Table, window: int, flips: bool) -> Table | None:
    """What letters do to a bit that has these values at the points, or None where that is no op."""
    letters = core.step.shape[1]
    value = dict(zip(points, bits.tolist(), strict=True))
    ops = np.full((letters + 1, letters), HOLD)
    for x in range(letters):
        sets: set[int] = set()
        pairs = [(y, value[q, y], value[int(core.step[q, x]), x]) for q, y in points]
        groups = [[p[1:] for p in pairs if p[0] == y] for y in range(letters + 1)]
        for y, group in enumerate([[p[1:] for p in pairs]] * (letters + 1) if window == 1 else groups):
            after = {b for _, b in group}
            if all(a == b for a, b in group):
                continue
            if len(after) == 1:
                ops[y, x] = next(iter(after))
                sets |= after
            elif flips and all(a != b for a, b in group):
                ops[y, x] = FLIP
            else:
                return None
        if len(sets) > 1:
            return None
    return ops
