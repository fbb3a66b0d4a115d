"""One answer for a whole sequence: ListOps and Pathfinder of the Long Range Arena, and small handwritten digits."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Unpack

import torch

from seqmix.tasks.base import Task
from seqmix.tasks.digits import DigitsExamples
from seqmix.tasks.listops import ListOpsExamples
from seqmix.tasks.loaders import Batch, StreamLoader, rank_of
from seqmix.tasks.loading import Loading
from seqmix.tasks.mixtures import MixtureBatches, Part
from seqmix.tasks.pathfinder import PathfinderExamples
from seqmix.tasks.registry import register_task

__all__ = ["Digits", "ListOps", "Pathfinder"]

_KEPT = 10_000  # training examples that are made once


class _Classification(Task):
    """Targets are (B, 1): models need `head: {name: classification, n_classes: ...}`.

    Attributes:
        n_classes: answers that there are.
        mask_token: a token that stands in no example, for masked self-pretraining.
    """

    metric = "token_accuracy"
    withheld: ClassVar[tuple[str, ...]] = ("train_length", "min_length", "eval_lengths", "packed")

    def __init__(self, examples: Any, length: int, **loading: Unpack[Loading]) -> None:
        loading["train_length"], loading["eval_lengths"] = length, [length]
        super().__init__(examples, **loading)
        self.n_classes, self.mask_token = examples.n_classes, examples.mask_token

    def train_dataloader(self) -> StreamLoader:
        if self.train_size is None or self.train_size <= _KEPT:
            return super().train_dataloader()
        # Too many to keep: batches are cut once, and an epoch has them in another order.
        part = Part(self.examples, self.train_length, self.train_size)
        batches = MixtureBatches([part], self.seed, self.batch_size, True, *rank_of(self))
        return StreamLoader(batches, batches.in_epoch, num_workers=self.num_workers)


@register_task(
    "listops",
    description="Nested lists of MIN, MAX, MED and SM: ten classes, 500 to 2,000 tokens.",
    source="1804.06028, 2011.04006",
)
class ListOps(_Classification):
    """Nested lists of MIN, MAX, MED and SM, read token by token (1804.06028, 2011.04006). Chance is 1/10.

    Ten of every hundred examples are of each class: left alone, 0 and 9 would come up more often.

    Args:
        max_length: longest sequence; batches have this width, and say in `lengths` where sequences end.
        min_length: shortest sequence.
        max_depth: of a tree, its root and its deepest digits counted.
        max_arguments: of an operator.
        packed: put the sequences of a training batch behind one another in one row, with their bounds as
            `cu_seqlens`, instead of padding them; targets are (1, batch_size).

    Raises:
        ValueError: numbers out of range, or lengths that trees of this depth do not reach.
    """

    loading = Loading(batch_size=32, eval_size=2000)

    # Its own `min_length` and `packed` mean other things than those of all tasks.
    def __init__(  # type: ignore[misc]
        self,
        max_length: int = 2000,
        min_length: int = 500,
        max_depth: int = 10,
        max_arguments: int = 10,
        packed: bool = False,
        **loading: Unpack[Loading],
    ) -> None:
        super().__init__(ListOpsExamples(min_length, max_depth, max_arguments), max_length, **loading)
        self.packed = packed

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


@register_task(
    "pathfinder",
    description="Are two marked ends ends of the same dashed curve? Pixel by pixel, 1,024 tokens.",
    source="1805.08315, 2011.04006",
)
class Pathfinder(_Classification):
    """Are two marked ends of dashed curves ends of the same curve (1805.08315, 2011.04006)? Chance is 1/2.

    Args:
        size: pixels of a side; sequences have `size`^2 tokens, grey levels.
        dashes: of each of the two long curves.
        distractors: number of short curves.
        distractor_dashes: of each short curve.

    Raises:
        ValueError: numbers out of range, or curves for which a picture has no room.
    """

    loading = Loading(batch_size=64, eval_size=2000)

    def __init__(
        self,
        size: int = 32,
        dashes: int = 14,
        distractors: int = 5,
        distractor_dashes: int = 4,
        **loading: Unpack[Loading],
    ) -> None:
        examples = PathfinderExamples(size, dashes, distractors, distractor_dashes)
        super().__init__(examples, examples.size**2, **loading)


@register_task(
    "digits", description="Handwritten digits of 8 x 8 pixels, one pixel after the other.", source="scikit-learn"
)
class Digits(_Classification):
    """scikit-learn's handwritten digits, 64 pixels with 17 grey levels, one after the other. Chance is 1/10.

    1,077 training, 360 validation and 360 test pictures, split once; needs `pip install 'seqmix[images]'`.
    """

    loading = Loading(batch_size=64)
    withheld = (*_Classification.withheld, "train_size", "eval_size", "eval_seed")

    def __init__(self, **loading: Unpack[Loading]) -> None:
        examples = DigitsExamples()
        loading["train_size"], loading["eval_size"] = len(examples.part("train")), len(examples.part("test"))
        super().__init__(examples, 64, **loading)
