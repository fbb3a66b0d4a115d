"""`Task`: a LightningDataModule around a function that makes examples by number."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader

from seqmix._extras import require
from seqmix.tasks.loaders import Batch, FixedBatches, StreamLoader
from seqmix.tasks.streams import permutation, uniform_integer

require("lightning.pytorch", extra="train", owner="seqmix.tasks.Task")
from lightning.pytorch import LightningDataModule  # noqa: E402

__all__ = ["Examples", "Task"]

_ENDLESS = 1 << 40  # batches to the epoch of a stream; Lightning counts them in floats
_EVAL_TOKENS = 1 << 15  # positions in one evaluation batch: long sequences come in small batches


class Examples(Protocol):
    """What a task is made of; examples must not depend on anything else, and a shorter one is a prefix."""

    vocab_size: int
    chance: float

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> Batch: ...


@dataclass
class _TrainBatches:
    # Batch b of the stream holds examples [b n, (b + 1) n); each rank makes its share of them.
    examples: Examples
    seed: int
    batch_size: int
    min_length: int | None
    train_length: int
    train_size: int | None
    rank: int
    world_size: int
    limit: int | None = None  # set by a curriculum
    _stored: Batch | None = None

    def __call__(self, index: int) -> Batch:
        longest = self.limit or self.train_length
        shortest = min(self.min_length or longest, longest)
        length = uniform_integer(self.seed, "train length", index, shortest, longest)
        count = self.batch_size // self.world_size
        start = index * self.batch_size + self.rank * count
        if self.train_size is None:
            return self._make(start, count, length)
        if self._stored is None:
            self._stored = self._make(0, self.train_size, self.train_length)
        rows = [self._row(position) for position in range(start, start + count)]
        extra = self._stored["tokens"].shape[1] - self.train_length  # BOS and the like
        return {name: values[rows, : length + extra] for name, values in self._stored.items()}

    def _make(self, start: int, count: int, length: int) -> Batch:
        return self.examples(
            seed=self.seed, split="train", start=start, count=count, length=length, max_length=self.train_length
        )

    def _row(self, position: int) -> int:
        assert self.train_size is not None
        epoch, index = divmod(position, self.train_size)
        return int(permutation(self.seed, f"train order {epoch}", self.train_size)[index])


@dataclass
class _EvalBatches:
    examples: Examples
    seed: int
    split: str
    length: int
    size: int
    batch_size: int
    rank: int
    world_size: int

    def __call__(self, index: int) -> Batch:
        start = (index * self.world_size + self.rank) * self.batch_size
        batch = self.examples(seed=self.seed, split=self.split, start=start, count=self.batch_size, length=self.length)
        # Every rank runs every batch (sharded models communicate in each); what lies beyond the set does not count.
        batch["targets"][max(0, self.size - start) :] = -100
        return batch

    def __len__(self) -> int:
        return -(-self.size // (self.batch_size * self.world_size))


class Task(LightningDataModule):
    """Data of one task. Batches are dicts of int64 `tokens` and `targets` (B, T), target -100 where there is no loss.

    Example i of a split is a pure function of (seed, split, i), so batches are the same for any number of workers or
    ranks: each rank makes its share of the global batch. Validation sets (at the training length) and test sets (one
    for each of `eval_lengths`) are fixed by `eval_seed` and have streams of their own.

    Attributes:
        vocab_size: tokens that a model must know, as input or target.
        chance: accuracy of guessing.
        metric: the measure that decides, one of `token_accuracy`, `last_accuracy`, `sequence_accuracy`.
    """

    metric = "sequence_accuracy"

    def __init__(
        self,
        examples: Examples,
        *,
        train_length: int,
        min_length: int | None,
        batch_size: int,
        train_size: int | None,
        eval_lengths: Sequence[int],
        eval_size: int,
        seed: int,
        eval_seed: int,
        num_workers: int,
    ) -> None:
        super().__init__()
        owner = type(self).__name__
        counts = {"train_length": train_length, "batch_size": batch_size, "eval_size": eval_size}
        optional = {"min_length": min_length, "train_size": train_size}
        for name, value in (counts | {k: v for k, v in optional.items() if v is not None}).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"{owner}: {name} must be a positive integer, got {value!r}")
        if min_length is not None and min_length > train_length:
            raise ValueError(f"{owner}: min_length must be at most train_length = {train_length}, got {min_length}")
        if not eval_lengths or any(not isinstance(n, int) or n < 1 for n in eval_lengths):
            raise ValueError(f"{owner}: eval_lengths must be positive integers, got {eval_lengths!r}")
        if not isinstance(num_workers, int) or num_workers < 0:
            raise ValueError(f"{owner}: num_workers must be an integer of at least 0, got {num_workers!r}")
        self.examples = examples
        self.vocab_size, self.chance = examples.vocab_size, examples.chance
        self.train_length, self.min_length = train_length, min_length
        self.batch_size, self.train_size = batch_size, train_size
        self.eval_lengths, self.eval_size = sorted(set(eval_lengths)), eval_size
        self.seed, self.eval_seed, self.num_workers = seed, eval_seed, num_workers
        self._train: _TrainBatches | None = None
        self._limit: int | None = None

    @property
    def current_length(self) -> int:
        """The longest training sequence now: `train_length`, or what a curriculum has set."""
        return self._limit or self.train_length

    @current_length.setter
    def current_length(self, length: int) -> None:
        if self.num_workers:
            raise ValueError(
                f"{type(self).__name__}: num_workers must be 0 for a curriculum, got {self.num_workers}: workers make "
                "batches ahead, at lengths that are no longer current"
            )
        if not 1 <= length <= self.train_length:
            raise ValueError(
                f"{type(self).__name__}: current_length must be in [1, {self.train_length}], up to train_length, "
                f"got {length}"
            )
        self._limit = length
        if self._train is not None:
            self._train.limit = length

    def train_dataloader(self) -> StreamLoader:
        rank, world_size = self._rank()
        if self.batch_size % world_size:
            raise ValueError(
                f"{type(self).__name__}: batch_size counts the sequences of all ranks and must be a multiple of "
                f"their number {world_size}, got {self.batch_size}"
            )
        self._train = _TrainBatches(
            self.examples,
            self.seed,
            self.batch_size,
            self.min_length,
            self.train_length,
            self.train_size,
            rank,
            world_size,
            self._limit,
        )
        n_batches = _ENDLESS if self.train_size is None else max(1, self.train_size // self.batch_size)
        return StreamLoader(self._train, n_batches, num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._eval_loader("validation", length) for length in self.validation_lengths]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._eval_loader("test", length) for length in self.eval_lengths]

    predict_dataloader = test_dataloader

    @property
    def validation_lengths(self) -> list[int]:
        """Lengths of the validation sets, in the order of `val_dataloader`: the training length decides."""
        return [self.train_length]

    def version(self) -> str:
        """A hash of the first 64 test examples at every evaluation length: equal versions mean equal test sets."""
        digest = hashlib.sha256()
        for length in self.eval_lengths:
            batch = self.examples(
                seed=self.eval_seed, split=f"test {length}", start=0, count=min(64, self.eval_size), length=length
            )
            for name in sorted(batch):
                digest.update(np.ascontiguousarray(batch[name].numpy(), dtype="<i8").tobytes())
        return digest.hexdigest()[:16]

    def _eval_loader(self, split: str, length: int) -> DataLoader[Batch]:
        rank, world_size = self._rank()
        batch_size = max(1, min(self.eval_size, _EVAL_TOKENS // length // world_size))
        batches = _EvalBatches(
            self.examples, self.eval_seed, f"{split} {length}", length, self.eval_size, batch_size, rank, world_size
        )
        return DataLoader(FixedBatches(batches, len(batches)), batch_size=None, generator=torch.Generator())

    def _rank(self) -> tuple[int, int]:
        trainer = getattr(self, "trainer", None)
        if trainer is None:
            return 0, 1
        kwargs: dict[str, Any] | None = getattr(trainer.strategy, "distributed_sampler_kwargs", None)
        return (kwargs["rank"], kwargs["num_replicas"]) if kwargs else (0, 1)
