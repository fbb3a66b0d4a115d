"""Remembering: what followed a trigger, and everything in one vector."""

from typing import Unpack

from seqmix.tasks.base import Task
from seqmix.tasks.loading import Loading
from seqmix.tasks.registry import register_task
from seqmix.tasks.selective_copy import CompressionExamples, InductionHeadsExamples

__all__ = ["Compression", "InductionHeads"]


@register_task("induction-heads", description="What followed the trigger token when it was seen.", source="2312.00752")
class InductionHeads(Task):
    """What followed the trigger when it was first seen, asked at the end (Gu & Dao 2023, 2312.00752).

    The metric is the accuracy of that answer; chance is 1 / (vocab_size - 1).

    Args:
        vocab_size: number of tokens, the trigger included.

    Raises:
        ValueError: sizes that are not positive, lengths below 3.
    """

    metric = "last_accuracy"
    loading = Loading(train_length=256, eval_lengths=(64, 256, 1024, 4096))

    def __init__(self, vocab_size: int = 16, **loading: Unpack[Loading]) -> None:
        super().__init__(InductionHeadsExamples(vocab_size), **loading)


@register_task(
    "compression", description="Say every token again from the last vector alone (MAD).", source="2403.17844"
)
class Compression(Task):
    """Every token again from the last vector alone: needs `head: autoencoder` (MAD, Poli et al. 2024, 2403.17844).

    The metric is the accuracy of single tokens; chance is 1 / (vocab_size - 1).

    Args:
        vocab_size: number of tokens, the compression token included.

    Raises:
        ValueError: sizes that are not positive, lengths below 2.
    """

    metric = "token_accuracy"
    reconstructs = True
    loading = Loading(train_length=32, eval_lengths=(32,))

    def __init__(self, vocab_size: int = 16, **loading: Unpack[Loading]) -> None:
        super().__init__(CompressionExamples(vocab_size), **loading)
