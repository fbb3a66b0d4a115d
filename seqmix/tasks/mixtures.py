"""Training data of several kinds, or more than is kept in memory: batches are fixed, and epochs have them in any order.

Every batch is of one kind. What a finite set of a hundred thousand long sequences is for needs no more than that.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seqmix.tasks.batches import Examples
from seqmix.tasks.loaders import Batch
from seqmix.tasks.streams import permutation

__all__ = ["MixtureBatches", "Part"]


class Part(NamedTuple):
    """One kind: what makes its examples, their length, and how many of them an epoch has."""

    examples: Examples
    length: int
    size: int


@dataclass
class MixtureBatches:
    """Batch b of the training stream. An epoch has `size // batch_size` batches of each part, at least one.

    A finite mixture has the same examples in every epoch, in another order; otherwise each epoch has new ones.
    """

    parts: Sequence[Part]
    seed: int
    batch_size: int
    finite: bool
    rank: int
    world_size: int

    def __post_init__(self) -> None:
        if self.batch_size % self.world_size:
            raise ValueError(
                f"batch_size counts the sequences of all ranks and must be a multiple of their number "
                f"{self.world_size}, got {self.batch_size}"
            )
        small = [part.size for part in self.parts if part.size < self.batch_size]
        if self.finite and small:
            raise ValueError(
                f"batch_size must be at most the {min(small)} training examples of a kind, got {self.batch_size}"
            )
        self.batches = [max(1, part.size // self.batch_size) for part in self.parts]
        self.in_epoch = sum(self.batches)

    def __call__(self, index: int) -> Batch:
        epoch, position = divmod(index, self.in_epoch)
        number = int(permutation(self.seed, f"train mixture {epoch}", self.in_epoch)[position])
        ends = np.cumsum(self.batches)
        kind = int(np.searchsorted(ends, number, side="right"))
        part, number = self.parts[kind], number - int(ends[kind] - self.batches[kind])
        number += 0 if self.finite else epoch * self.batches[kind]
        count = self.batch_size // self.world_size
        start = number * self.batch_size + self.rank * count
        return part.examples(seed=self.seed, split="train", start=start, count=count, length=part.length)
