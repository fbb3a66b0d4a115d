"""One answer for a whole sequence: ListOps and Pathfinder of the Long Range Arena, and small handwritten digits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from seqmix.tasks.base import Task
from seqmix.tasks.digits import DigitsExamples
from seqmix.tasks.listops import ListOpsExamples
from seqmix.tasks.loaders import Batch, StreamLoader, rank_of
from seqmix.tasks.mixtures import MixtureBatches, Part
from seqmix.tasks.pathfinder import PathfinderExamples

__all__ = ["Digits", "ListOps", "Pathfinder"]

_KEPT = 10_000  # training examples that are made once


class _Classification(Task):
    """Targets are (B, 1): models need `head: {name: classification, n_classes: ...}`.

    Attributes:
        n_classes: answers that there are.
        mask_token: a token that stands in no example, for masked self-pretraining.
    """

    metric = "token_accuracy"

    def __init__(self, examples: Any, length: int, **kwargs: Any) -> None:
        super().__init__(examples, train_length=length, min_length=None, eval_lengths=[length], **kwargs)
        self.n_classes, self.mask_token = examples.n_classes, examples.mask_token

    def train_dataloader(self) -> StreamLoader:
        if self.train_size is None or self.train_size <= _KEPT:
            return super().train_dataloader()
        # Too many to keep: batches are cut once, and an epoch has them in another order.
        part = Part(self.examples, self.train_length, self.train_size)
        batches = MixtureBatches([part], self.seed, self.batch_size, True, *rank_of(self))
        return StreamLoader(batches, batches.in_epoch, num_workers=self.num_workers)


class ListOps(_Classification):
    """Nested lists of MIN, MAX, MED and SM, read token by token (1804.06028, 2011.04006). Chance is 1/10.

    Ten of every hundred examples are of each class: left alone, 0 and 9 would come up more often.

    Args:
        max_length: longest sequence; batches have this width, and say in `lengths` where sequences end.
        min_length: shortest sequence.
        max_depth: of a tree, its root and its deepest digits counted.
        max_arguments: of an operator.
        batch_size: sequences in a batch, over all ranks.
        train_size: number of different training examples; None for a stream that never repeats.
        eval_size: sequences in the validation and the test set.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches.
        packed: put the sequences of a training batch behind one another in one row, with their bounds as
            `cu_seqlens`, instead of padding them; targets are (1, batch_size).

    Raises:
        ValueError: numbers out of range, or lengths that trees of this depth do not reach.
    """

    def __init__(
        self,
        max_length: int = 2000,
        min_length: int = 500,
        max_depth: int = 10,
        max_arguments: int = 10,
        batch_size: int = 32,
        train_size: int | None = None,
        eval_size: int = 2000,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
        packed: bool = False,
    ) -> None:
        examples = ListOpsExamples(min_length, max_depth, max_arguments)
        super().__init__(
            examples, max_length, **_sizes(batch_size, train_size, eval_size, seed, eval_seed, num_workers)
        )
        self.packed = packed
        self.save_hyperparameters()

    def train_dataloader(self) -> StreamLoader:
        packed, self.packed = self.packed, False  # the rows of padded batches are what is packed
        loader = super().train_dataloader()
        self.packed = packed
        if packed:
            loader.make = _Packed(loader.make)
        return loader


@dataclass
class _Packed:
    # A padded batch as one row.
    make: Callable[[int], Batch]

    def __call__(self, index: int) -> Batch:
        batch = self.make(index)
        lengths = batch["lengths"]
        inside = torch.arange(batch["tokens"].shape[1]) < lengths[:, None]
        bounds = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        return {"tokens": batch["tokens"][inside][None], "targets": batch["targets"].T, "cu_seqlens": bounds}


class Pathfinder(_Classification):
    """Are two marked ends of dashed curves ends of the same curve (1805.08315, 2011.04006)? Chance is 1/2.

    Args:
        size: pixels of a side; sequences have `size`^2 tokens, grey levels.
        dashes: of each of the two long curves.
        distractors: number of short curves.
        distractor_dashes: of each short curve.
        batch_size: sequences in a batch, over all ranks.
        train_size: number of different training examples; None for a stream that never repeats.
        eval_size: sequences in the validation and the test set.
        seed: of the training stream.
        eval_seed: of the validation and test sets.
        num_workers: processes that make training batches.

    Raises:
        ValueError: numbers out of range, or curves for which a picture has no room.
    """

    def __init__(
        self,
        size: int = 32,
        dashes: int = 14,
        distractors: int = 5,
        distractor_dashes: int = 4,
        batch_size: int = 64,
        train_size: int | None = None,
        eval_size: int = 2000,
        seed: int = 0,
        eval_seed: int = 0,
        num_workers: int = 0,
    ) -> None:
        examples = PathfinderExamples(size, dashes, distractors, distractor_dashes)
        length = examples.size**2
        super().__init__(examples, length, **_sizes(batch_size, train_size, eval_size, seed, eval_seed, num_workers))
        self.save_hyperparameters()


class Digits(_Classification):
    """scikit-learn's handwritten digits, 64 pixels with 17 grey levels, one after the other. Chance is 1/10.

    1,077 training, 360 validation and 360 test pictures, split once; needs `pip install 'seqmix[images]'`.

    Args:
        batch_size: sequences in a batch, over all ranks.
        seed: of the order of the training pictures.
        num_workers: processes that make training batches.
    """

    def __init__(self, batch_size: int = 64, seed: int = 0, num_workers: int = 0) -> None:
        examples = DigitsExamples()
        train_size, eval_size = len(examples.part("train")), len(examples.part("test"))
        super().__init__(examples, 64, **_sizes(batch_size, train_size, eval_size, seed, 0, num_workers))
        self.save_hyperparameters()


def _sizes(
    batch_size: int, train_size: int | None, eval_size: int, seed: int, eval_seed: int, num_workers: int
) -> dict[str, Any]:
    return dict(locals())
