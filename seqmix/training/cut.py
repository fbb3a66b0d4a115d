"""Batches whose sequences are cut over ranks (`--trainer.strategy sequence_parallel`): a rank's part, whole answers."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from seqmix.distributed import split_sequences

__all__ = ["CutSequences"]

_REFUSED = {"carry_from": "states that go on from batch to batch", "lengths": "padded sequences"}


class CutSequences:
    """What the ranks of `group`, which get the same batches, do with one."""

    def __init__(self, group: dist.ProcessGroup) -> None:
        self.group = group

    def part(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """This rank's tokens, targets and whatever else has a number for each token, and the bounds of its sequences.

        Raises `ValueError` for batches that carry states or are padded, and sequences shorter than there are ranks.
        """
        for name, what in _REFUSED.items():
            if name in batch:
                raise ValueError(f"trainer.strategy: sequence_parallel expects whole or packed sequences, got {what}")
        shape, bounds = batch["tokens"].shape, batch.get("cu_seqlens")
        found = {}
        for name, value in batch.items():
            if name == "cu_seqlens":
                continue
            if value.shape[:2] != shape:
                raise ValueError(
                    f"trainer.strategy: sequence_parallel expects {name} of shape {tuple(shape)}, one for each token, "
                    f"got {tuple(value.shape)}"
                )
            found[name] = split_sequences(value, self.group)[0]
        _, offsets = split_sequences(batch["tokens"], self.group, cu_seqlens=bounds)
        return found if offsets is None else found | {"cu_seqlens": offsets}

    def whole(self, part: Tensor, length: int) -> Tensor:
        """(B, `length`) of every rank's part (B, T_r), as `part` cuts it."""
        ranks = self.group.size()
        most = -(-length // ranks)
        parts = [part.new_empty(len(part), most) for _ in range(ranks)]
        dist.all_gather(parts, F.pad(part, (0, most - part.shape[1])), group=self.group)
        sizes = [(rank + 1) * length // ranks - rank * length // ranks for rank in range(ranks)]
        return torch.cat([each[:, :size] for each, size in zip(parts, sizes, strict=True)], 1)

    def sum(self, value: Tensor) -> Tensor:
        """Over the ranks."""
        value = value.clone()
        dist.all_reduce(value, group=self.group)
        return value
