"""Bits that letters hold, set, flip or fade, and whether they and the last letter tell the answers of an automaton.

With a window of two, what a letter does may depend on the letter before it, the BOS included, but the value that it
sets on itself alone. A bit that fades, h <- h / 64 + b, holds the last two letters' values, and of others so little
that no answer moves.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.atlas.separate import ReadOut, read_out
from seqmix.tasks.automata.core import Core

__all__ = ["FADE", "FLIP", "HOLD", "SHARE", "Registers", "bits_over", "fading", "registers", "written"]

HOLD, FLIP, FADE = 2, 3, 4  # beside 0 and 1, values to set; FADE and FADE + 1 fade and write these
_FAR = 100.0  # how far behind answers are that go with another letter
SHARE = 1 / 64  # what is left of a bit that fades
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
    last = np.arange(letters)
    if window == 1:
        found = bits_over(core, np.zeros((1, letters), dtype=np.int64), last[None], last, flips=flips)
        if found is None:
            return None
        ops, start, read = found
        return Registers(np.broadcast_to(ops[:, None], (len(ops), letters + 1, letters)), start, read)
    # The letter before, or none.
    before = np.tile(last + 1, (letters + 1, 1))
    label = np.arange(letters + 1)[:, None] * letters + last
    found = bits_over(core, before, label, np.tile(last, letters + 1), flips=flips, alone=True)
    if found is None:
        return None
    ops, start, read = found
    # The last row is that of a BOS before.
    return Registers(np.roll(ops.reshape(len(ops), letters + 1, letters), -1, 1), start, read)


def bits_over(
    core: Core, lower: Table, label: Table, seen: Table, *, flips: bool = False, alone: bool = False
) -> tuple[Table, Table, ReadOut] | None:
    """Bits that see an automaton's letters by labels: ops (R, W), start (R,), and a read-out of them and of what labels
    are `seen` as (W,), one-hot.

    `lower` (P, L) are steps of a machine from 0, label (P, L) is what is told of its state before and a letter.
    `alone`: labels that are seen as one set no bit to both values.
    """
    points, moves = [(0, 0)], []
    for place, (q, p) in enumerate(points):
        for x in range(core.step.shape[1]):
            after = (int(core.step[q, x]), int(lower[p, x]))
            if after not in points:
                if len(points) == _MOST_POINTS:
                    return None
                points.append(after)
            moves.append((place, int(label[p, x]), points.index(after)))
    before, labels, behind = np.array(moves).T
    count, width = len(points), len(seen)
    # A bit and its complement say the same.
    values = np.arange(0, 2**count, 2)[1:, None] >> np.arange(count) & 1
    ops, valid = np.full((len(values), width), HOLD), np.ones(len(values), dtype=bool)
    for each in np.unique(labels):
        was, now = values[:, before[labels == each]], values[:, behind[labels == each]]
        hold, constant, flip = (was == now).all(1), (now == now[:, :1]).all(1), (was != now).all(1) & flips
        ops[:, each] = np.where(hold, HOLD, np.where(constant, now[:, 0], FLIP))
        valid &= hold | constant | flip
    if alone:
        for each in np.unique(seen):
            valid &= ~((ops[:, seen == each] == 0).any(1) & (ops[:, seen == each] == 1).any(1))
    chosen = np.flatnonzero(valid)
    if len(chosen) > _MOST_KEPT:
        return None
    told = np.unique(np.stack([behind, seen[labels]], 1)[core.asked[[points[i][0] for i in behind]]], axis=0)
    last = (told[:, 1:] == np.arange(seen.max() + 1)).astype(np.float64)
    answers = core.answers[[points[i][0] for i in told[:, 0]]]

    def read_of(rows: Table) -> ReadOut | None:
        bits = values[rows][:, told[:, 0]].T.astype(np.float64)
        return read_out(np.concatenate([bits, last], 1), answers, int(answers.max()) + 1)

    read = read_of(chosen)
    for each in chosen.tolist() if read is not None else ():
        if (fewer := read_of(chosen[chosen != each])) is not None:
            chosen, read = chosen[chosen != each], fewer
    if read is not None and not len(chosen):
        # Where no bit is needed, one that is always held: a layer of none cannot be.
        padded = read._replace(weights=np.pad(read.weights, ((0, 0), (1, 0))))
        return np.full((1, width), HOLD), np.zeros(1, dtype=np.int64), padded
    return None if read is None else (ops[chosen], values[chosen, 0], read)


def written(ops: NDArray[Any], low: float = -1.0) -> NDArray[np.float64]:
    """What is added to bits that are `low` or 1: their value where they are set, or fade, else zero."""
    fade = low + (1 - low) * (ops - FADE) - low * SHARE
    return np.where(ops >= FADE, fade, np.where(ops == 1, 1.0, np.where(ops == 0, low, 0.0)))


def fading(core: Core) -> Registers | None:
    """A bit a letter that fades, of an automaton whose answers are functions of the last two letters."""
    step, letters = core.step, core.step.shape[1]
    pairs = [(y, x) for y in range(-1, letters) for x in range(letters)]  # -1: there is none before
    after = [step[step[:, y], x] if y >= 0 else step[:1, x] for y, x in pairs]
    if any((states != states[0]).any() for states in after):
        return None
    values = np.array([[(x == b) + SHARE * (y == b) for b in range(letters)] for y, x in pairs])
    last = np.array([[x == b for b in range(letters)] for _, x in pairs], dtype=np.float64)
    states = np.array([states[0] for states in after])
    answers = core.answers[states]
    read = _by_pairs(pairs, answers, letters)
    read = read or read_out(np.concatenate([values, last], 1), answers, int(answers.max()) + 1)
    told = None if read is None else read.weights[np.isfinite(read.constants), :letters]
    # What earlier letters add is at most SHARE squared, and what they add to it.
    if told is None or np.ptp(told, 0).sum() * SHARE**2 / (1 - SHARE) > read.margin / 2:  # type: ignore[union-attr]
        return None
    ops = np.broadcast_to(FADE + np.eye(letters, dtype=np.int64)[:, None], (letters, letters + 1, letters))
    return Registers(ops, np.full(letters, FADE), read)  # type: ignore[arg-type]


def _by_pairs(pairs: list[tuple[int, int]], answers: Table, letters: int) -> ReadOut | None:
    """Where each pair has an answer of its own: 1 for the letter before, which is 0 for all others, and for none 1 less
    all of them."""
    if len(np.unique(answers)) < len(pairs):
        return None
    n = int(answers.max()) + 1
    weights, constants = np.zeros((n, 2 * letters)), np.full(n, -np.inf)
    for (y, x), answer in zip(pairs, answers.tolist(), strict=True):
        weights[answer, letters:] = -_FAR * (np.arange(letters) != x)
        constants[answer] = y < 0
        for b in range(letters) if y < 0 else (y,):
            share = (-1 if y < 0 else 1) / SHARE
            weights[answer, b], weights[answer, letters + x] = share, weights[answer, letters + x] - share * (b == x)
    return ReadOut(weights, constants, 1.0)
