"""`Task`: a LightningDataModule around a function that makes examples by number."""

import copy
import hashlib
from collections.abc import Sequence
from typing import Any, ClassVar, Self, Unpack

import numpy as np
import torch
from torch.utils.data import DataLoader

from seqmix._checks import integers, lengths
from seqmix._extras import require
from seqmix._memory import fits
from seqmix.tasks.automata import Automaton
from seqmix.tasks.batches import EvalBatches, EvalSet, Examples, TrainBatches
from seqmix.tasks.loaders import Batch, FixedBatches, StreamLoader, rank_of
from seqmix.tasks.loading import Loading, arguments_of, explain, merge, show

require("lightning.pytorch", extra="train", owner="seqmix.tasks.Task")
from lightning.pytorch import LightningDataModule  # noqa: E402

__all__ = ["ENDLESS", "EvalSet", "Examples", "Task"]

ENDLESS = 1 << 40  # batches to the epoch of a stream; Lightning counts them in floats
_EVAL_TOKENS = 1 << 15  # positions in one evaluation batch: long sequences come in small batches
_HASHED_TOKENS = 100_000 * 64  # of a test set, in `version`
_TOKEN_BYTES = 32  # of a token and its target, and of the random words that make them
_EVAL_LOGITS = 1 << 26  # numbers that a model returns for one: 256 MiB of float32


class Task(LightningDataModule):
    """Data of one task. Batches are dicts of int64 `tokens` and `targets` (B, T), target -100 where there is no loss.

    Example i of a split is a pure function of (seed, split, i), so batches are the same for any number of workers or
    ranks: each rank makes its share of the global batch. Validation sets (at the training length) and test sets (one
    for each of `eval_lengths` and further ones, or others with names of their own) are fixed by `eval_seed` and have
    streams of their own. With `packed`, the sequences of a training batch have lengths of their own and stand one
    behind the other in one row (1, T), with their bounds as int32 `cu_seqlens` (batch_size + 1,): no state crosses a
    bound.

    A task of one's own has a constructor that ends in `**loading: Unpack[Loading]`, hands it on with the examples, and
    says which values differ from those of all tasks in `loading`, and which it does not offer in `withheld`.

    Attributes:
        vocab_size: tokens that a model must know, as input or target.
        chance: accuracy of guessing.
        metric: the measure that decides, one of `token_accuracy`, `last_accuracy`, `sequence_accuracy`, and
            `macro_accuracy`, MAD's mean over classes.
        free_running: test the answers once more with the model's own answers as input, see `SequenceLearner`. Then
            the answer of a test example is a run of targets at its end, at the same place in every row of a set.
        validation_sets, test_sets: what is measured, in the order of the loaders.
    """

    metric = "sequence_accuracy"
    free_running = False
    loading: ClassVar[Loading] = {}
    withheld: ClassVar[tuple[str, ...]] = ()
    _arguments: dict[str, Any]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        constructor = cls.__dict__.get("__init__")
        if constructor is not None and "loading" in constructor.__annotations__:
            constructor.__signature__ = show(constructor, cls.loading, cls.withheld)
            cls.__doc__ = explain(cls.__doc__ or "", constructor.__signature__)

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        task = super().__new__(cls)
        task._arguments = arguments_of(cls.__init__, args, kwargs)
        return task

    def __init__(
        self,
        examples: Examples,
        *,
        validation_sets: Sequence[EvalSet] | None = None,
        test_sets: Sequence[EvalSet] | None = None,
        further_sets: Sequence[EvalSet] = (),
        **loading: Unpack[Loading],
    ) -> None:
        super().__init__()
        # As `save_hyperparameters` does, which looks for arguments in frames and finds no names for `**loading` there.
        self.hparams.update(self._arguments)
        self._hparams_initial, self._log_hyperparams = copy.deepcopy(self.hparams), True
        self._load(merge(type(self).loading, loading))
        self.examples = examples
        self.vocab_size, self.chance = examples.vocab_size, examples.chance
        self.validation_sets = list(validation_sets or [self._at(self.train_length)])
        self.test_sets = [*(test_sets or map(self._at, self.eval_lengths)), *further_sets]
        for sets in (self.validation_sets, self.test_sets):
            names = [each.name for each in sets]
            if len(set(names)) != len(names):
                raise ValueError(
                    f"{type(self).__name__}: evaluation sets must have different names, got {', '.join(names)}"
                )
        try:
            self._try_examples()
        except MemoryError as error:
            raise ValueError(
                f"{type(self).__name__}: a single example needs more memory than there is: {error}"
            ) from None
        self._train: TrainBatches | None = None
        self._limit: int | None = None

    def __str__(self) -> str:
        # Lightning's own asks for data that no trainer has set up.
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in self._arguments.items())})"

    def _load(self, loading: Loading) -> None:
        owner, train_length, min_length = type(self).__name__, loading["train_length"], loading["min_length"]
        batch_size, train_size, eval_size = loading["batch_size"], loading["train_size"], loading["eval_size"]
        num_workers, packed = loading["num_workers"], loading["packed"]
        counts = {"train_length": train_length, "batch_size": batch_size, "eval_size": eval_size}
        optional = {"min_length": min_length, "train_size": train_size}
        integers(owner, **counts, **{name: value for name, value in optional.items() if value is not None})
        if min_length is not None and min_length > train_length:
            raise ValueError(f"{owner}: min_length must be at most train_length = {train_length}, got {min_length}")
        self.eval_lengths = lengths(owner, "eval_lengths", loading["eval_lengths"])
        integers(owner, 0, num_workers=num_workers)
        longest = self.eval_lengths[-1]
        for what, tokens in (("a training batch", batch_size * train_length), ("a test sequence", longest)):
            fits(owner, f"{what} of {tokens:,} tokens", _TOKEN_BYTES * tokens)
        if not isinstance(packed, bool):
            raise ValueError(f"{owner}: packed must be true or false, got {packed!r}")
        self.train_length, self.min_length = train_length, min_length
        self.batch_size, self.train_size = batch_size, train_size
        self.eval_size, self.seed, self.eval_seed = eval_size, loading["seed"], loading["eval_seed"]
        self.num_workers, self.packed = num_workers, packed

    def _try_examples(self) -> None:
        # Lengths too short for what a task puts in them are told before training starts, not at the last test set.
        tried = [
            ("train", self.seed, self.examples, n) for n in {self.min_length or self.train_length, self.train_length}
        ]
        for split, sets in (("validation", self.validation_sets), ("test", self.test_sets)):
            tried += [(f"{split} {each.name}", self.eval_seed, each.examples, each.length) for each in sets]
        for split, seed, examples, length in tried:
            examples(seed=seed, split=split, start=0, count=1, length=length)

    def _at(self, length: int) -> EvalSet:
        return EvalSet(str(length), self.examples, length, self.eval_size)

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
        rank, world_size = rank_of(self)
        if self.batch_size % world_size:
            raise ValueError(
                f"{type(self).__name__}: batch_size counts the sequences of all ranks and must be a multiple of "
                f"their number {world_size}, got {self.batch_size}"
            )
        self._train = TrainBatches(
            self.examples,
            self.seed,
            self.batch_size,
            self.min_length,
            self.train_length,
            self.train_size,
            self.packed,
            rank,
            world_size,
            self._limit,
        )
        n_batches = ENDLESS if self.train_size is None else max(1, self.train_size // self.batch_size)
        return StreamLoader(self._train, n_batches, num_workers=self.num_workers)

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._eval_loader("validation", each) for each in self.validation_sets]

    def test_dataloader(self) -> list[DataLoader[Batch]]:
        return [self._eval_loader("test", each) for each in self.test_sets]

    predict_dataloader = test_dataloader

    def automaton(self) -> Automaton:
        """The task as a finite automaton; a task that is none, or says nothing of one, is a `NotImplementedError`."""
        make = getattr(self.examples, "automaton", None)
        if make is None:
            raise NotImplementedError(f"{type(self).__name__} is no finite automaton over tokens")
        return make()

    def version(self) -> str:
        """A hash of the first 64 examples of every test set, fewer of those that have 100,000 tokens and more.

        Equal versions mean equal test sets.
        """
        digest = hashlib.sha256()
        for each in self.test_sets:
            count = max(1, min(64, each.size, _HASHED_TOKENS // each.length))
            batch = each.examples(
                seed=self.eval_seed, split=f"test {each.name}", start=0, count=count, length=each.length
            )
            for name in sorted(batch):
                digest.update(np.ascontiguousarray(batch[name].numpy(), dtype="<i8").tobytes())
        return digest.hexdigest()[:16]

    def _eval_loader(self, split: str, each: EvalSet) -> DataLoader[Batch]:
        rank, world_size = rank_of(self)
        positions = min(_EVAL_TOKENS, _EVAL_LOGITS // self.vocab_size)
        batch_size = max(1, min(each.size, positions // each.length // world_size))
        batches = EvalBatches(each, self.eval_seed, split, batch_size, rank, world_size)
        return DataLoader(FixedBatches(batches, len(batches)), batch_size=None, generator=torch.Generator())
