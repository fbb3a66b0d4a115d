"""Digits as vectors: some for training, and the test set."""

import numpy as np
import torch
from torch import Tensor

from seqmix.tasks.digits import DigitsExamples

__all__ = ["digits"]


def digits(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """`count` training pictures (count, 64) by the seed with their classes, and those of the test; pixels to 1."""
    examples = DigitsExamples()
    chosen = np.random.default_rng(seed).permutation(examples.part("train"))[:count]
    found = []
    for part in (chosen, examples.part("test")):
        found += [torch.from_numpy(examples.pixels[part]).float() / 16, torch.from_numpy(examples.classes[part])]
    return found[0], found[1], found[2], found[3]
