"""Examples of Pathfinder (Linsley et al. 2018, 1805.08315; as a sequence, Tay et al. 2020, 2011.04006). Numpy, torch.

A picture of two long dashed curves and some short ones; two discs mark ends of long curves, of one and the same curve
(class 1) or of one each (class 0). Pixels are read row by row, so that neighbours in a column are far apart.

Curves grow dash by dash, for many pictures at once: the next dash turns by a random angle, and keeps a distance from
all others and from the border. A picture that has no room left starts anew. Everything is sums and products of
multiples of 2^-20, so that pictures are the same on every machine.
"""

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix._checks import positive
from seqmix.tasks.streams import below, words

__all__ = ["PathfinderExamples"]

_TURN = 256  # directions of a full turn
_LARGEST = 52  # of them, between one dash and the next: 73 degrees
_DASH, _STEP, _APART = 1.25, 2.75, 2.5  # pixels: length of a dash, centre to centre along a curve and between curves
_BORDER, _DISC = 1.5, 1.5
_TRIALS, _CHOICES = 3, 4  # curves that grow side by side, and places that are tried for each dash
_ATTEMPTS, _AT_ONCE = 200, 4  # pictures that are begun for an example, and side by side
_LEVELS = 256

_DIRECTIONS = np.array(
    [[round(f(2 * math.pi * i / _TURN) * 2**20) / 2**20 for f in (math.cos, math.sin)] for i in range(_TURN)]
)

Floats = NDArray[np.float64]


class PathfinderExamples:
    """Pictures of `size` x `size` pixels as `tokens` (count, size^2), grey levels 0 to 255; `targets` (count, 1).

    Token 256 is a mask. Both classes are equally frequent in every pair of examples 2 i, 2 i + 1.

    Args:
        size: pixels of a side.
        dashes: of each long curve.
        distractors: number of short curves.
        distractor_dashes: of each short curve.

    Raises:
        ValueError: numbers out of range, or curves for which a picture has no room.
    """

    vocab_size, n_classes, chance = _LEVELS + 1, 2, 0.5
    mask_token = _LEVELS
    prefixes = False

    def __init__(self, size: int = 32, dashes: int = 14, distractors: int = 5, distractor_dashes: int = 4) -> None:
        for name, value, least in (
            ("size", size, 8),
            ("dashes", dashes, 2),
            ("distractors", distractors, 0),
            ("distractor_dashes", distractor_dashes, 1),
        ):
            positive("Pathfinder", name, value, least)
        self.size, self.dashes = size, dashes
        self.curves = [dashes, dashes, *[distractor_dashes] * distractors]

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        if length != self.size**2:
            raise ValueError(f"Pathfinder: length must be size^2 = {self.size**2}, got {length}")
        split = f"{split} {self.size} {self.curves}"
        centres = np.empty((count, sum(self.curves), 2))
        directions = np.empty((count, sum(self.curves)), dtype=np.int64)
        waiting, n_words = np.arange(count), 3 * _TRIALS * _CHOICES * sum(self.curves)
        for attempt in range(0, _ATTEMPTS, _AT_ONCE):
            drawn = [
                words(seed, f"{split} {number}", start, count, n_words=n_words)[waiting]
                for number in range(attempt, attempt + _AT_ONCE)
            ]
            grown = self._grow(np.stack(drawn, axis=1).reshape(-1, n_words))
            places, turns, whole = (part.reshape(len(waiting), _AT_ONCE, *part.shape[1:]) for part in grown)
            rows, first = np.arange(len(waiting)), whole.argmax(1)
            centres[waiting], directions[waiting] = places[rows, first], turns[rows, first]
            waiting = waiting[~whole.any(1)]
            if not len(waiting):
                break
        else:
            raise ValueError(
                f"Pathfinder: curves of {self.curves} dashes did not fit into {self.size} x {self.size} pixels in "
                f"{_ATTEMPTS} attempts; fewer dashes or a larger size do"
            )
        # Pairs of examples have both classes, in random order; which curve and which ends is drawn for each.
        first = start // 2
        order = below(words(seed, f"{split} class", first, (start + count + 1) // 2 - first + 1, n_words=1)[:, 0], 2)
        numbers = np.arange(start, start + count)
        classes = (numbers + order[numbers // 2 - first]) % 2
        ends = below(words(seed, f"{split} ends", start, count, n_words=3), 2)
        discs = self._ends(centres, classes, ends)
        pixels = _draw(self.size, centres, directions, discs)
        return {"tokens": torch.from_numpy(pixels), "targets": torch.from_numpy(classes[:, None])}

    def _grow(self, drawn: NDArray[np.uint32]) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
        """Centres (n, dashes, 2) and directions (n, dashes) of all dashes, and whether every one found a place."""
        count, rows = len(drawn), np.arange(len(drawn))
        drawn = drawn.reshape(count, sum(self.curves), 3, _TRIALS, _CHOICES)
        centres, directions = np.empty((count, 0, 2)), np.empty((count, 0), dtype=np.int64)
        whole = np.ones(count, dtype=bool)
        for dashes in self.curves:
            placed = centres.shape[1]
            curve, turns, grown = self._grow_curve(drawn[:, placed : placed + dashes], centres)
            chosen = grown.argmax(1)  # the first trial that went through
            whole &= grown[rows, chosen]
            centres = np.concatenate([centres, curve[rows, chosen]], axis=1)
            directions = np.concatenate([directions, turns[rows, chosen]], axis=1)
        return centres, directions, whole

    def _grow_curve(
        self, drawn: NDArray[np.uint32], others: Floats
    ) -> tuple[Floats, NDArray[np.int64], NDArray[np.bool_]]:
        """Trials of one curve among others: centres (n, trials, dashes, 2), directions, and which found a place."""
        count, dashes = drawn.shape[:2]
        centres = np.empty((count, _TRIALS, dashes, 2))
        directions = np.empty((count, _TRIALS, dashes), dtype=np.int64)
        whole = np.ones((count, _TRIALS), dtype=bool)
        room = int((self.size - 1 - 2 * _BORDER) * 16)
        for number in range(dashes):
            x, y, turn = (drawn[:, number, part] for part in range(3))  # (n, trials, choices)
            if number == 0:
                centre = np.stack([below(x, room + 1), below(y, room + 1)], axis=-1) / 16 + _BORDER
                direction = below(turn, _TURN)
            else:
                before = directions[:, :, number - 1, None]
                direction = (before + below(turn, 2 * _LARGEST + 1) - _LARGEST) % _TURN
                # Half the way along the dash that was, half along the one that comes.
                way = _DIRECTIONS[before] + _DIRECTIONS[direction]
                centre = centres[:, :, number - 1, None] + way * (_STEP / 2)
            own = centres[:, :, : max(0, number - 1)]  # a dash may touch the one it follows
            free = self._free(centre, others, own)
            # Of the free places the first from where a dash straight ahead has one too, so that few curves get stuck.
            ahead = self._free(centre + _STEP * _DIRECTIONS[direction], others, own)
            chosen = (free * 2 + (free & ahead)).argmax(2)[:, :, None]
            whole &= np.take_along_axis(free, chosen, axis=2)[:, :, 0]
            centres[:, :, number] = np.take_along_axis(centre, chosen[..., None], axis=2)[:, :, 0]
            directions[:, :, number] = np.take_along_axis(direction, chosen, axis=2)[:, :, 0]
        return centres, directions, whole

    def _free(self, centre: Floats, others: Floats, own: Floats) -> NDArray[np.bool_]:
        # Places (n, trials, choices, 2) inside the border, away from others (n, p, 2) and own dashes (n, trials, q, 2).
        x, y = centre[..., 0], centre[..., 1]
        low, high = _BORDER, self.size - 1 - _BORDER
        free = (x >= low) & (x <= high) & (y >= low) & (y <= high)
        for taken in (others.transpose(1, 0, 2)[:, :, None], own.transpose(2, 0, 1, 3)):
            for dash in taken[:, :, :, None]:
                across, down = x - dash[..., 0], y - dash[..., 1]
                free &= across * across + down * down >= _APART**2
        return free

    def _ends(self, centres: Floats, classes: NDArray[np.int64], drawn: NDArray[np.int64]) -> Floats:
        # Centres (n, 2, 2) of the discs: both ends of one long curve, or one end of each.
        ends = centres[:, [0, self.dashes - 1, self.dashes, 2 * self.dashes - 1]].reshape(-1, 2, 2, 2)
        rows = np.arange(len(centres))
        same = ends[rows, drawn[:, 0]]
        different = np.stack([ends[rows, 0, drawn[:, 1]], ends[rows, 1, drawn[:, 2]]], axis=1)
        return np.where(classes[:, None, None] == 1, same, different)


def _draw(size: int, centres: Floats, directions: NDArray[np.int64], discs: Floats) -> NDArray[np.int64]:
    """Grey levels (n, size^2): white dashes and discs on black, soft at their edges."""
    down, across = divmod(np.arange(size * size), size)
    nearest = np.full((len(centres), size * size), np.inf)  # squared distances to dashes
    for dash in range(centres.shape[1]):
        x, y = down - centres[:, dash, :1], across - centres[:, dash, 1:]
        u, v = _DIRECTIONS[directions[:, dash]].T[:, :, None]
        reach = np.clip(x * u + y * v, -_DASH / 2, _DASH / 2)
        x -= reach * u
        y -= reach * v
        np.minimum(nearest, x * x + y * y, out=nearest)
    light = 1.0 - np.sqrt(nearest)
    for disc in range(2):
        x, y = down - discs[:, disc, :1], across - discs[:, disc, 1:]
        np.maximum(light, _DISC + 0.5 - np.sqrt(x * x + y * y), out=light)
    return (np.clip(light, 0, 1) * (_LEVELS - 1) + 0.5).astype(np.int64)
