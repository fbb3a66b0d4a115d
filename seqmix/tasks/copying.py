"""Copying: strings, n-grams, and data tokens among blanks."""

from typing import Unpack

from seqmix.tasks.base import Task
from seqmix.tasks.loading import Loading
from seqmix.tasks.registry import register_task
from seqmix.tasks.selective_copy import SelectiveCopyExamples
from seqmix.tasks.string_copy import DuplicateNgramExamples, NgramLookupExamples, StringCopyExamples

__all__ = ["NgramLookup", "SelectiveCopy", "StringCopy"]


@register_task(
    "string-copy",
    description="Copy a string, teacher-forced and free-running; with repeated n-grams if asked.",
    source="2402.01032",
)
class StringCopy(Task):
    """Copy a string of uniform letters (Jelassi et al. 2024, 2402.01032); lengths are those of the string.

    The metric is the share of strings copied without a mistake, teacher-forced as published; the test measures
    free-running copies too. Chance, of a letter, is 1 / n_letters.

    Args:
        n_letters: size of the alphabet.
        ngram: None, or the letters of an n-gram that stands `repeats` times in every string.
        repeats: how often.

    Raises:
        ValueError: sizes that are not positive, strings too short for the n-grams.

    Example:
        >>> from seqmix.tasks.copying import StringCopy
        >>> next(iter(StringCopy(train_length=8, min_length=None).train_dataloader()))["tokens"].shape
        torch.Size([128, 18])
    """

    free_running = predicts_next = True
    loading = Loading(train_length=16, min_length=2, eval_lengths=(16, 24, 32))

    def __init__(
        self, n_letters: int = 26, ngram: int | None = None, repeats: int = 2, **loading: Unpack[Loading]
    ) -> None:
        super().__init__(
            StringCopyExamples(n_letters) if ngram is None else DuplicateNgramExamples(n_letters, ngram, repeats),
            **loading,
        )


@register_task(
    "ngram-lookup", description="Find an n-gram, given before or after a string, and continue it.", source="2402.01032"
)
class NgramLookup(Task):
    """Find an n-gram in a string and continue it (Jelassi et al. 2024, 2402.01032); lengths are those of the string.

    The metric is the share of continuations without a mistake, teacher-forced; the test measures free-running ones too.

    Args:
        n_letters: size of the alphabet.
        n: letters of the n-gram.
        n_answer: letters of the continuation.
        suffix: the n-gram comes after the string instead of before it.

    Raises:
        ValueError: sizes that are not positive, strings too short for n-gram and continuation.
    """

    free_running = predicts_next = True
    loading = Loading(train_length=32, min_length=8, eval_lengths=(32, 64))

    def __init__(
        self, n_letters: int = 26, n: int = 2, n_answer: int = 4, suffix: bool = False, **loading: Unpack[Loading]
    ) -> None:
        super().__init__(NgramLookupExamples(n_letters, n, n_answer, suffix), **loading)


@register_task(
    "selective-copy",
    description="Remember data tokens among blanks, at random or fixed places, and say them in order.",
    source="2312.00752",
)
class SelectiveCopy(Task):
    """Say the data tokens among blanks in order (Gu & Dao 2023, 2312.00752); lengths are those of the whole sequence.

    The metric is the accuracy of single tokens, as published; chance is 1 / (vocab_size - 2).

    Args:
        vocab_size: number of tokens, blank and marker included.
        n_tokens: data tokens in a sequence.
        positions: `random`, or `fixed`, which a time-invariant layer can solve.

    Raises:
        ValueError: sizes that are not positive, lengths too short for the tokens.
    """

    metric = "token_accuracy"
    loading = Loading(train_length=256, eval_lengths=(256,))

    def __init__(
        self, vocab_size: int = 16, n_tokens: int = 16, positions: str = "random", **loading: Unpack[Loading]
    ) -> None:
        super().__init__(SelectiveCopyExamples(vocab_size, n_tokens, positions), **loading)
