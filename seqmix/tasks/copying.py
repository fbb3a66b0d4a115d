"""Copying: strings, n-grams, and data tokens among blanks."""

from collections.abc import Sequence

from seqmix.tasks.base import Task
from seqmix.tasks.selective_copy import SelectiveCopyExamples
from seqmix.tasks.string_copy import DuplicateNgramExamples, NgramLookupExamples, StringCopyExamples

__all__ = ["NgramLookup", "SelectiveCopy", "StringCopy"]


class StringCopy(Task):
    """Copy a string of uniform letters (Jelassi et al. 2024, 2402.01032); lengths are those of the string.

    The metric is the share of strings copied without a mistake, teacher-forced as published; the test measures
    free-running copies too. Chance, of a letter, is 1 / n_letters.

    Args:
        n_letters: size of the alphabet.
        ngram: None, or the letters of an n-gram that stands `repeats` times in every string.
        repeats: how often.
        train_length: length of the training strings, or their largest length.
        min_length: smallest length of training strings, one length to the batch; None trains at the largest only.
        batch_size: sequences in a batch, over all ranks.
        train_size: number of different training examples; None for a stream that never repeats.
        eval_lengths: lengths of the test sets.
        eval_size: sequences in the validation set and in each test set.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches; 0 is fastest unless the model runs on a GPU.
        packed: pack the sequences of a training batch in one row, each with a length of its own.

    Raises:
        ValueError: sizes that are not positive, strings too short for the n-grams.

    Example:
        >>> from seqmix.tasks.copying import StringCopy
        >>> next(iter(StringCopy(train_length=8, min_length=None).train_dataloader()))["tokens"].shape
        torch.Size([128, 18])
    """

    free_running = predicts_next = True

    def __init__(
        self,
        n_letters: int = 26,
        ngram: int | None = None,
        repeats: int = 2,
        train_length: int = 16,
        min_length: int | None = 2,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (16, 24, 32),
        eval_size: int = 512,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__(
            StringCopyExamples(n_letters) if ngram is None else DuplicateNgramExamples(n_letters, ngram, repeats),
            train_length=train_length,
            min_length=min_length,
            batch_size=batch_size,
            train_size=train_size,
            eval_lengths=eval_lengths,
            eval_size=eval_size,
            seed=seed,
            eval_seed=eval_seed,
            num_workers=num_workers,
            packed=packed,
        )
        self.save_hyperparameters()


class NgramLookup(Task):
    """Find an n-gram in a string and continue it (Jelassi et al. 2024, 2402.01032); lengths are those of the string.

    The metric is the share of continuations without a mistake, teacher-forced; the test measures free-running ones too.

    Args:
        n_letters: size of the alphabet.
        n: letters of the n-gram.
        n_answer: letters of the continuation.
        suffix: the n-gram comes after the string instead of before it.
        train_length: length of the training strings, or their largest length.
        min_length: smallest length of training strings, one length to the batch; None trains at the largest only.
        batch_size: sequences in a batch, over all ranks.
        train_size: number of different training examples; None for a stream that never repeats.
        eval_lengths: lengths of the test sets.
        eval_size: sequences in the validation set and in each test set.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches; 0 is fastest unless the model runs on a GPU.
        packed: pack the sequences of a training batch in one row, each with a length of its own.

    Raises:
        ValueError: sizes that are not positive, strings too short for n-gram and continuation.
    """

    free_running = predicts_next = True

    def __init__(
        self,
        n_letters: int = 26,
        n: int = 2,
        n_answer: int = 4,
        suffix: bool = False,
        train_length: int = 32,
        min_length: int | None = 8,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (32, 64),
        eval_size: int = 512,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__(
            NgramLookupExamples(n_letters, n, n_answer, suffix),
            train_length=train_length,
            min_length=min_length,
            batch_size=batch_size,
            train_size=train_size,
            eval_lengths=eval_lengths,
            eval_size=eval_size,
            seed=seed,
            eval_seed=eval_seed,
            num_workers=num_workers,
            packed=packed,
        )
        self.save_hyperparameters()


class SelectiveCopy(Task):
    """Say the data tokens among blanks in order (Gu & Dao 2023, 2312.00752); lengths are those of the whole sequence.

    The metric is the accuracy of single tokens, as published; chance is 1 / (vocab_size - 2).

    Args:
        vocab_size: number of tokens, blank and marker included.
        n_tokens: data tokens in a sequence.
        positions: `random`, or `fixed`, which a time-invariant layer can solve.
        train_length: length of the training sequences, or their largest length.
        min_length: smallest length of training sequences, one length to the batch; None trains at the largest only.
        batch_size: sequences in a batch, over all ranks.
        train_size: number of different training examples; None for a stream that never repeats.
        eval_lengths: lengths of the test sets.
        eval_size: sequences in the validation set and in each test set.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches; 0 is fastest unless the model runs on a GPU.
        packed: pack the sequences of a training batch in one row, each with a length of its own.

    Raises:
        ValueError: sizes that are not positive, lengths too short for the tokens.
    """

    metric = "token_accuracy"

    def __init__(
        self,
        vocab_size: int = 16,
        n_tokens: int = 16,
        positions: str = "random",
        train_length: int = 256,
        min_length: int | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (256,),
        eval_size: int = 512,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__(
            SelectiveCopyExamples(vocab_size, n_tokens, positions),
            train_length=train_length,
            min_length=min_length,
            batch_size=batch_size,
            train_size=train_size,
            eval_lengths=eval_lengths,
            eval_size=eval_size,
            seed=seed,
            eval_seed=eval_seed,
            num_workers=num_workers,
            packed=packed,
        )
        self.save_hyperparameters()
