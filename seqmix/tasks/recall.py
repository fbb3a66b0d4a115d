"""Associative recall: MQAR, and MAD's in-context, noisy and fuzzy recall and memorisation."""

from collections.abc import Sequence
from typing import Any

from torch.utils.data import DataLoader

from seqmix.tasks.base import ENDLESS, EvalSet, Task
from seqmix.tasks.loaders import Batch, StreamLoader, rank_of
from seqmix.tasks.mad_recall import FuzzyRecallExamples, MemorizationExamples, RecallExamples
from seqmix.tasks.mixtures import MixtureBatches, Part
from seqmix.tasks.mqar import MQARExamples

__all__ = ["MQAR", "FuzzyRecall", "InContextRecall", "Memorization", "NoisyRecall"]


class _Recall(Task):
    # Scored by token. A suite's protocol, as published, chooses everything on its test sets.
    metric = "token_accuracy"
    suite = "mad"

    def __init__(self, examples: Any, protocol: str | None, **kwargs: Any) -> None:
        if protocol not in (None, self.suite):
            raise ValueError(f"{type(self).__name__}: protocol must be null or {self.suite!r}, got {protocol!r}")
        if protocol and kwargs["train_size"] is None:
            raise ValueError(f"{type(self).__name__}: protocol {protocol!r} needs a finite train_size, got null")
        super().__init__(examples, **kwargs)
        self.protocol = protocol
        if protocol is not None:
            self.validation_sets = self.test_sets
        if protocol == "mad":
            self.metric = "macro_accuracy"

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        if self.protocol is None:
            return super().val_dataloader()
        return [self._eval_loader("test", each) for each in self.test_sets]


class MQAR(_Recall):
    """Multi-query associative recall (Arora et al. 2023, 2312.04927): pairs, then keys whose values are asked for.

    Every example has as many targets as pairs; the metric is the share of right ones. Chance is that of a guess among
    the values in the sequence, one over the pairs.

    Args:
        vocab_size: number of tokens, half of them keys and half values.
        train_length: length of the training sequences; the longest of a mixture.
        n_pairs: pairs in a training sequence.
        power: of the law of gaps between a pair and its query; 1 is uniform.
        fillers: `zero`, `random` tokens that are no key of the sequence, or `any` token, as published.
        train_mixture: training data of several kinds, rows of length, pairs and examples; None for one kind. Without
            `train_size` it never repeats, and the examples are the shares of batches.
        eval_sets: test sets, rows of length and pairs; None for the training length, and twice it, with `n_pairs`. A
            set is named by its length, by its pairs where lengths are not all different, or by both, `64x8`.
        protocol: `zoology`: the learning rate and the end of training are chosen on the test sets, the training set
            is finite (docs/tasks.md).
        batch_size: sequences in a batch, over all ranks.
        train_size: number of different training examples (with a mixture, that of its rows counts); None for a stream
            that never repeats.
        eval_size: sequences in the validation set and in each test set.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches.

    Raises:
        ValueError: a vocabulary too small for the pairs, a length too short for pairs and queries, other bad numbers.

    Example:
        >>> from seqmix.tasks.recall import MQAR
        >>> task = MQAR(64, train_length=32, n_pairs=4)
        >>> next(iter(task.train_dataloader()))["tokens"].shape, task.chance
        (torch.Size([64, 32]), 0.25)
    """

    suite = "zoology"

    def __init__(
        self,
        vocab_size: int = 8192,
        train_length: int = 64,
        n_pairs: int = 4,
        power: float = 0.01,
        fillers: str = "zero",
        train_mixture: list[list[int]] | None = None,
        eval_sets: list[list[int]] | None = None,
        protocol: str | None = None,
        batch_size: int = 64,
        train_size: int | None = None,
        eval_size: int = 1000,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        rows = [_row("train_mixture", row, 3) for row in train_mixture or ()]
        if rows:
            train_length, n_pairs, _ = max(rows)
        chosen = eval_sets or [[train_length, n_pairs], [2 * train_length, n_pairs]]
        tests = [_row("eval_sets", row, 2) for row in chosen]

        def of(pairs: int) -> MQARExamples:
            return MQARExamples(vocab_size, pairs, power=power, fillers=fillers)

        self.mixture = [Part(of(pairs), length, size) for length, pairs, size in rows]
        for length, pairs, _ in rows:
            of(pairs).check_length(length)
        lengths, pairs_of = [[row[column] for row in tests] for column in (0, 1)]
        names = [f"{length}x{pairs}" for length, pairs in tests]
        for column in (pairs_of, lengths):
            names = [str(number) for number in column] if len(set(column)) == len(column) else names
        super().__init__(
            of(n_pairs),
            protocol,
            train_length=train_length,
            min_length=None,
            batch_size=batch_size,
            train_size=train_size,
            eval_lengths=[length for length, _ in tests],
            eval_size=eval_size,
            seed=seed,
            eval_seed=eval_seed,
            num_workers=num_workers,
            test_sets=[
                EvalSet(name, of(pairs), length, eval_size)
                for name, length, pairs in zip(names, lengths, pairs_of, strict=True)
            ],
        )
        self.save_hyperparameters()

    def train_dataloader(self) -> StreamLoader:
        finite = self.train_size is not None
        if not self.mixture and not finite:
            return super().train_dataloader()
        # A finite set is cut into batches once, and an epoch has them in another order: it need not be kept.
        parts = self.mixture or [Part(self.examples, self.train_length, self.train_size or 0)]
        rank, world_size = rank_of(self)
        batches = MixtureBatches(parts, self.seed, self.batch_size, finite, rank, world_size)
        return StreamLoader(batches, batches.in_epoch if finite else ENDLESS, num_workers=self.num_workers)


class _NextToken(_Recall):
    # The value that is asked for is the next token: a model must not see it.
    predicts_next = True


class InContextRecall(_NextToken):
    """MAD's in-context recall (Poli et al. 2024, 2403.17844): pairs of a key and its value, in random order.

    A value is asked for wherever its key was seen before. Chance is that of a guess among the value tokens.

    Args:
        vocab_size: number of tokens, half keys and half values.
        train_length: length of sequences, which counts the last value, a target only.
        protocol: `mad`: every next token is a target in training, a finite training set, everything is chosen on the
            test set, and accuracy is averaged over classes (docs/tasks.md).
        batch_size: sequences in a batch, over all ranks.
        train_size: number of different training examples; None for a stream that never repeats.
        eval_lengths: lengths of the test sets.
        eval_size: sequences in the validation set and in each test set.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches.

    Raises:
        ValueError: fewer than two keys or values, a length that is odd or below 4, other bad numbers.
    """

    def __init__(
        self,
        vocab_size: int = 16,
        train_length: int = 128,
        protocol: str | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (128, 256),
        eval_size: int = 1280,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            RecallExamples(vocab_size, published=protocol is not None),
            protocol,
            **_sizes(train_length, batch_size, train_size, eval_lengths, eval_size, seed, eval_seed, num_workers),
        )
        self.save_hyperparameters()


class NoisyRecall(_NextToken):
    """`InContextRecall` where some pairs are two tokens of noise; arguments as there, and of the noise.

    Args:
        noise_vocab_size: how many of the tokens are noise.
        noise: share of the pairs that are noise.
    """

    def __init__(
        self,
        vocab_size: int = 32,
        noise_vocab_size: int = 16,
        noise: float = 0.2,
        train_length: int = 128,
        protocol: str | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (128, 256),
        eval_size: int = 1280,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            RecallExamples(vocab_size, noise_vocab_size, noise, published=protocol is not None),
            protocol,
            **_sizes(train_length, batch_size, train_size, eval_lengths, eval_size, seed, eval_seed, num_workers),
        )
        self.save_hyperparameters()


class FuzzyRecall(_NextToken):
    """`InContextRecall` of runs: keys and values of up to `motif` tokens; arguments as there.

    Tests ask with keys of `motif` tokens. With `protocol: mad` a few training and test examples ask for a pair that
    they do not hold, as published.

    Args:
        motif: largest run.
    """

    def __init__(
        self,
        vocab_size: int = 16,
        motif: int = 3,
        train_length: int = 128,
        protocol: str | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (128, 256),
        eval_size: int = 1280,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            FuzzyRecallExamples(vocab_size, motif, published=protocol is not None),
            protocol,
            **_sizes(train_length, batch_size, train_size, eval_lengths, eval_size, seed, eval_seed, num_workers),
        )
        self.save_hyperparameters()


class Memorization(_Recall):
    """MAD's memorisation: each key has the same value in every example, and a token of its own asks for it.

    Arguments as in `InContextRecall`; what is learned is in the weights, so validation, test and training share the
    map and no example says it.

    Args:
        map_seed: of the map from keys to values.
    """

    def __init__(
        self,
        vocab_size: int = 256,
        map_seed: int = 0,
        train_length: int = 32,
        protocol: str | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (32,),
        eval_size: int = 1280,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        super().__init__(
            MemorizationExamples(vocab_size, map_seed),
            protocol,
            **_sizes(train_length, batch_size, train_size, eval_lengths, eval_size, seed, eval_seed, num_workers),
        )
        self.save_hyperparameters()


def _sizes(
    train_length: int,
    batch_size: int,
    train_size: int | None,
    eval_lengths: Sequence[int],
    eval_size: int,
    seed: int,
    eval_seed: int,
    num_workers: int,
) -> dict[str, Any]:
    return {"min_length": None} | dict(locals())


def _row(name: str, row: Any, width: int) -> list[int]:
    if not isinstance(row, list | tuple) or len(row) != width or any(not isinstance(n, int) or n < 1 for n in row):
        what = "length, pairs, examples" if width == 3 else "length, pairs"
        raise ValueError(f"MQAR: {name} must have rows [{what}] of positive integers, got {row!r}")
    return list(row)
