"""Batches of examples by number: the training stream, finite sets, packed rows, and the sets of an evaluation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from seqmix.tasks.loaders import Batch
from seqmix.tasks.streams import permutation, symbols, uniform_integer

__all__ = ["EvalBatches", "EvalSet", "Examples", "TrainBatches"]


class Examples(Protocol):
    """What a task is made of: examples must not depend on anything but the arguments here.

    Attributes:
        vocab_size: tokens that a model must know, as input or target.
        chance: accuracy of guessing.
        prefixes: an example of a smaller `length` is the beginning of the same example at a larger one. Where that
            is false, `length` may mean whatever the task says, and even nothing.
    """

    vocab_size: int
    chance: float
    prefixes: bool

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> Batch: ...


class EvalSet(NamedTuple):
    """One validation or test set: `size` examples of `length`; its results stand under its name."""

    name: str
    examples: Examples
    length: int
    size: int


@dataclass
class TrainBatches:
    """Batch b of the training stream: examples [b n, (b + 1) n), of which each rank makes its share.

    The sequences of a batch have one length, uniform in [min_length, train_length]; packed, each has its own.
    """

    examples: Examples
    seed: int
    batch_size: int
    min_length: int | None
    train_length: int
    train_size: int | None
    packed: bool
    rank: int
    world_size: int
    limit: int | None = None  # set by a curriculum
    _stored: Batch | None = None

    def __call__(self, index: int) -> Batch:
        longest = self.limit or self.train_length
        shortest = min(self.min_length or longest, longest)
        count = self.batch_size // self.world_size
        start = index * self.batch_size + self.rank * count
        if self.packed:
            return self._pack(start, count, shortest, longest)
        length = uniform_integer(self.seed, "train length", index, shortest, longest)
        if self.train_size is None:
            return self._make(start, count, length)
        rows = self._rows(start, count)
        if not self.examples.prefixes and shortest < self.train_length:
            return self._stack(self._each(rows, [length] * count))
        whole = self._whole()
        if not self.examples.prefixes:
            return {name: values[rows] for name, values in whole.items()}
        return {name: values[rows, : values.shape[1] - self.train_length + length] for name, values in whole.items()}

    def _pack(self, start: int, count: int, shortest: int, longest: int) -> Batch:
        numbers = np.arange(start, start + count) if self.train_size is None else np.array(self._rows(start, count))
        lengths = self._lengths(numbers, shortest, longest)
        if self.examples.prefixes:
            if self.train_size is None:
                full = self._make(start, count, longest)
            else:
                full = {name: values[numbers] for name, values in self._whole().items()}
            of_longest = longest if self.train_size is None else self.train_length
            widths = lengths + (full["tokens"].shape[1] - of_longest)  # BOS and the like
            kept = torch.from_numpy(np.arange(full["tokens"].shape[1]) < widths[:, None])
            batch = {name: values[kept].unsqueeze(0) for name, values in full.items()}
        else:
            parts = self._each(numbers.tolist(), lengths.tolist())
            widths = np.array([part["tokens"].shape[1] for part in parts])
            batch = {name: torch.cat([part[name] for part in parts], dim=1) for name in parts[0]}
        bounds = np.concatenate([[0], np.cumsum(widths)]).astype(np.int32)
        return {**batch, "cu_seqlens": torch.from_numpy(bounds)}

    def _lengths(self, numbers: NDArray[np.int64], shortest: int, longest: int) -> NDArray[np.int64]:
        # Of each example, by its number; a stream's numbers are consecutive.
        first, last = int(numbers.min()), int(numbers.max())
        drawn = symbols(
            self.seed,
            "train lengths",
            first,
            last - first + 1,
            length=1,
            max_length=1,
            n_symbols=longest - shortest + 1,
        )
        return shortest + drawn[numbers - first, 0]

    def _make(self, start: int, count: int, length: int) -> Batch:
        return self.examples(
            seed=self.seed, split="train", start=start, count=count, length=length, max_length=self.train_length
        )

    def _each(self, numbers: Sequence[int], lengths: Sequence[int]) -> list[Batch]:
        return [self._make(number, 1, length) for number, length in zip(numbers, lengths, strict=True)]

    @staticmethod
    def _stack(parts: list[Batch]) -> Batch:
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _whole(self) -> Batch:
        # A finite set, made once at the full length.
        assert self.train_size is not None
        if self._stored is None:
            self._stored = self._make(0, self.train_size, self.train_length)
        return self._stored

    def _rows(self, start: int, count: int) -> list[int]:
        return [self._row(position) for position in range(start, start + count)]

    def _row(self, position: int) -> int:
        assert self.train_size is not None
        epoch, index = divmod(position, self.train_size)
        return int(permutation(self.seed, f"train order {epoch}", self.train_size)[index])


@dataclass
class EvalBatches:
    """Batches of an evaluation set; every rank has as many."""

    source: EvalSet
    seed: int
    split: str
    batch_size: int
    rank: int
    world_size: int

    def __call__(self, index: int) -> Batch:
        start = (index * self.world_size + self.rank) * self.batch_size
        batch = self.source.examples(
            seed=self.seed,
            split=f"{self.split} {self.source.name}",
            start=start,
            count=self.batch_size,
            length=self.source.length,
        )
        # Every rank runs every batch (sharded models communicate in each); what lies beyond the set does not count.
        batch["targets"][max(0, self.source.size - start) :] = -100
        return batch

    def __len__(self) -> int:
        return -(-self.source.size // (self.batch_size * self.world_size))
