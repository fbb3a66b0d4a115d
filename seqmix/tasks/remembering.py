"""Remembering: what followed a trigger, and everything in one vector."""

from collections.abc import Sequence

from seqmix.tasks.base import Task
from seqmix.tasks.selective_copy import CompressionExamples, InductionHeadsExamples

__all__ = ["Compression", "InductionHeads"]


class InductionHeads(Task):
    """What followed the trigger when it was first seen, asked at the end (Gu & Dao 2023, 2312.00752).

    The metric is the accuracy of that answer; chance is 1 / (vocab_size - 1).

    Args:
        vocab_size: number of tokens, the trigger included.
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
        ValueError: sizes that are not positive, lengths below 3.
    """

    metric = "last_accuracy"

    def __init__(
        self,
        vocab_size: int = 16,
        train_length: int = 256,
        min_length: int | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (64, 256, 1024, 4096),
        eval_size: int = 512,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__(
            InductionHeadsExamples(vocab_size),
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


class Compression(Task):
    """Every token again from the last vector alone: needs `head: autoencoder` (MAD, Poli et al. 2024, 2403.17844).

    The metric is the accuracy of single tokens; chance is 1 / (vocab_size - 1).

    Args:
        vocab_size: number of tokens, the compression token included.
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
        ValueError: sizes that are not positive, lengths below 2.
    """

    metric = "token_accuracy"
    reconstructs = True

    def __init__(
        self,
        vocab_size: int = 16,
        train_length: int = 32,
        min_length: int | None = None,
        batch_size: int = 128,
        train_size: int | None = None,
        eval_lengths: Sequence[int] = (32,),
        eval_size: int = 512,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        super().__init__(
            CompressionExamples(vocab_size),
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
