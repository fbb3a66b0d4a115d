"""Associative recall: MQAR, and MAD's in-context, noisy and fuzzy recall and memorisation."""

from typing import Any, ClassVar, Unpack

from torch.utils.data import DataLoader

from seqmix.tasks.base import ENDLESS, EvalSet, Task
from seqmix.tasks.loaders import Batch, StreamLoader, rank_of
from seqmix.tasks.loading import Loading, merge
from seqmix.tasks.mad_recall import FuzzyRecallExamples, MemorizationExamples, RecallExamples
from seqmix.tasks.mixtures import MixtureBatches, Part
from seqmix.tasks.mqar import MQARExamples
from seqmix.tasks.registry import register_task

__all__ = ["MQAR", "FuzzyRecall", "InContextRecall", "Memorization", "NoisyRecall"]


class _Recall(Task):
    # Scored by token. A suite's protocol, as published, chooses everything on its test sets.
    metric = "token_accuracy"
    suite = "mad"
    withheld: ClassVar[tuple[str, ...]] = ("min_length", "packed")

    def __init__(
        self, examples: Any, protocol: str | None, *, test_sets: list[EvalSet] | None = None, **loading: Unpack[Loading]
    ) -> None:
        if protocol not in (None, self.suite):
            raise ValueError(f"{type(self).__name__}: protocol must be null or {self.suite!r}, got {protocol!r}")
        if protocol and loading.get("train_size") is None:
            raise ValueError(f"{type(self).__name__}: protocol {protocol!r} needs a finite train_size, got null")
        super().__init__(examples, test_sets=test_sets, **loading)
        self.protocol = protocol
        if protocol is not None:
            self.validation_sets = self.test_sets
        if protocol == "mad":
            self.metric = "macro_accuracy"

    def val_dataloader(self) -> list[DataLoader[Batch]]:
        if self.protocol is None:
            return super().val_dataloader()
        return [self._eval_loader("test", each) for each in self.test_sets]


@register_task(
    "mqar",
    description="Multi-query associative recall: pairs, then keys whose values are asked for.",
    source="2312.04927",
)
class MQAR(_Recall):
    """Multi-query associative recall (Arora et al. 2023, 2312.04927): pairs, then keys whose values are asked for.

    Every example has as many targets as pairs; the metric is the share of right ones. Chance is that of a guess among
    the values in the sequence, one over the pairs.

    Args:
        vocab_size: number of tokens, half of them keys and half values.
        n_pairs: pairs in a training sequence.
        power: of the law of gaps between a pair and its query; 1 is uniform.
        fillers: `zero`, `random` tokens that are no key of the sequence, or `any` token, as published.
        train_mixture: training data of several kinds, rows of length, pairs and examples; None for one kind. Without
            `train_size` it never repeats, and the examples are the shares of batches.
        eval_sets: test sets, rows of length and pairs; None for the training length, and twice it, with `n_pairs`. A
            set is named by its length, by its pairs where lengths are not all different, or by both, `64x8`.
        protocol: `zoology`: the learning rate and the end of training are chosen on the test sets, the training set
            is finite (docs/tasks.md).

    Raises:
        ValueError: a vocabulary too small for the pairs, a length too short for pairs and queries, other bad numbers.

    Example:
        >>> from seqmix.tasks.recall import MQAR
        >>> task = MQAR(64, train_length=32, n_pairs=4)
        >>> next(iter(task.train_dataloader()))["tokens"].shape, task.chance
        (torch.Size([64, 32]), 0.25)
    """

    suite = "zoology"
    loading = Loading(train_length=64, batch_size=64, eval_size=1000)
    withheld = ("min_length", "packed", "eval_lengths")

    def __init__(
        self,
        vocab_size: int = 8192,
        n_pairs: int = 4,
        power: float = 0.01,
        fillers: str = "zero",
        train_mixture: list[list[int]] | None = None,
        eval_sets: list[list[int]] | None = None,
        protocol: str | None = None,
        **loading: Unpack[Loading],
    ) -> None:
        sizes = merge(self.loading, loading)
        rows = [_row("train_mixture", row, 3) for row in train_mixture or ()]
        if rows:
            sizes["train_length"], n_pairs, _ = max(rows)
        train_length = sizes["train_length"]
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
        sizes["eval_lengths"] = lengths
        tests_of = [
            EvalSet(name, of(pairs), length, sizes["eval_size"])
            for name, length, pairs in zip(names, lengths, pairs_of, strict=True)
        ]
        super().__init__(of(n_pairs), protocol, test_sets=tests_of, **sizes)

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
    loading = Loading(train_length=128, eval_lengths=(128, 256), eval_size=1280)


@register_task(
    "in-context-recall", description="MAD: values of keys that were seen before in the sequence.", source="2403.17844"
)
class InContextRecall(_NextToken):
    """MAD's in-context recall (Poli et al. 2024, 2403.17844): pairs of a key and its value, in random order.

    A value is asked for wherever its key was seen before. Chance is that of a guess among the value tokens.

    Args:
        vocab_size: number of tokens, half keys and half values.
        protocol: `mad`: every next token is a target in training, a finite training set, everything is chosen on the
            test set, and accuracy is averaged over classes (docs/tasks.md).

    Raises:
        ValueError: fewer than two keys or values, a length that is odd or below 4, other bad numbers.
    """

    def __init__(self, vocab_size: int = 16, protocol: str | None = None, **loading: Unpack[Loading]) -> None:
        super().__init__(RecallExamples(vocab_size, published=protocol is not None), protocol, **loading)


@register_task(
    "noisy-recall", description="MAD: in-context recall with pairs of noise in between.", source="2403.17844"
)
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
        protocol: str | None = None,
        **loading: Unpack[Loading],
    ) -> None:
        super().__init__(
            RecallExamples(vocab_size, noise_vocab_size, noise, published=protocol is not None), protocol, **loading
        )


@register_task(
    "fuzzy-recall", description="MAD: in-context recall where keys and values are runs of tokens.", source="2403.17844"
)
class FuzzyRecall(_NextToken):
    """`InContextRecall` of runs: keys and values of up to `motif` tokens; arguments as there.

    Tests ask with keys of `motif` tokens. With `protocol: mad` a few training and test examples ask for a pair that
    they do not hold, as published.

    Args:
        motif: largest run.
    """

    def __init__(
        self, vocab_size: int = 16, motif: int = 3, protocol: str | None = None, **loading: Unpack[Loading]
    ) -> None:
        super().__init__(FuzzyRecallExamples(vocab_size, motif, published=protocol is not None), protocol, **loading)


@register_task(
    "memorization",
    description="MAD: values of keys by a fixed map that only the weights can hold.",
    source="2403.17844",
)
class Memorization(_Recall):
    """MAD's memorisation: each key has the same value in every example, and a token of its own asks for it.

    Arguments as in `InContextRecall`; what is learned is in the weights, so validation, test and training share the
    map and no example says it.

    Args:
        map_seed: of the map from keys to values.
    """

    loading = Loading(train_length=32, eval_lengths=(32,), eval_size=1280)

    def __init__(
        self, vocab_size: int = 256, map_seed: int = 0, protocol: str | None = None, **loading: Unpack[Loading]
    ) -> None:
        super().__init__(MemorizationExamples(vocab_size, map_seed), protocol, **loading)


def _row(name: str, row: Any, width: int) -> list[int]:
    if not isinstance(row, list | tuple) or len(row) != width or any(not isinstance(n, int) or n < 1 for n in row):
        what = "length, pairs, examples" if width == 3 else "length, pairs"
        raise ValueError(f"MQAR: {name} must have rows [{what}] of positive integers, got {row!r}")
    return list(row)
