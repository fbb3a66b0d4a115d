"""Handwritten digits as sequences: the 1,797 pictures of 8 x 8 pixels that come with scikit-learn. Numpy, torch."""

from functools import cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix._extras import require
from seqmix.tasks.streams import words

__all__ = ["DigitsExamples"]

_TEST = 360  # pictures of the test set, and of the validation set


class DigitsExamples:
    """Digits pixel by pixel, row after row: `tokens` (count, 64), grey levels 0 to 16, and `targets` (count, 1).

    Token 17 is a mask. The pictures (UCI 80, Alpaydin & Kaynak 1998) are split at random once and for all, 360 for the
    test, 360 for validation and 1,077 for training; example i is picture i of its part, modulo their number.

    Raises:
        ImportError: scikit-learn is not installed.
    """

    vocab_size, n_classes, chance = 18, 10, 0.1
    mask_token = 17
    prefixes = False

    def __init__(self) -> None:
        self.pixels, self.classes = _pictures()

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        part = self.part(split)
        rows = part[np.arange(start, start + count) % len(part)]
        return {"tokens": torch.from_numpy(self.pixels[rows]), "targets": torch.from_numpy(self.classes[rows][:, None])}

    def part(self, split: str) -> NDArray[np.int64]:
        """Numbers of the pictures of a split."""
        order = np.argsort(words(0, "digits", 0, 1, n_words=len(self.classes))[0], kind="stable")
        bounds = {"test": (0, _TEST), "validation": (_TEST, 2 * _TEST)}
        first, end = bounds.get(split.partition(" ")[0], (2 * _TEST, len(order)))
        return order[first:end]


@cache
def _pictures() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    datasets = require("sklearn.datasets", extra="images", owner="seqmix.tasks.digits")
    pixels, classes = datasets.load_digits(return_X_y=True)
    return pixels.astype(np.int64), classes.astype(np.int64)
