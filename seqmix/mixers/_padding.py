"""Sequences of different lengths in one batch (B, T), padded at the end: int64 `lengths` (B,) say where each ends."""

import torch
from torch import Tensor

from seqmix.kernels.checks import describe, has_values
from seqmix.kernels.transforms import is_transformed

__all__ = ["check_lengths", "padded_offsets"]


def check_lengths(owner: str, lengths: Tensor | None, x: Tensor, cu_seqlens: Tensor | None) -> None:
    """Raise `ValueError` unless `lengths` are int64 (B,) in [1, T], without packing; values are read on the CPU."""
    if lengths is None:
        return
    batch, time = x.shape[:2]
    if cu_seqlens is not None:
        raise ValueError(f"{owner}: lengths must be None where cu_seqlens packs the sequences, got {describe(lengths)}")
    if not isinstance(lengths, Tensor) or lengths.dtype != torch.int64 or lengths.shape != (batch,):
        raise ValueError(f"{owner}: lengths must be int64 of shape ({batch},), got {describe(lengths)}")
    if lengths.device != x.device:
        raise ValueError(f"{owner}: lengths must be on {x.device} like the tokens, got {lengths.device}")
    if is_transformed(lengths):
        raise NotImplementedError(f"{owner}: lengths cannot differ within vmap, which has no numbers to read")
    if lengths.numel() and has_values(lengths):
        low, high = (int(bound) for bound in lengths.aminmax())
        if low < 1 or high > time:
            raise ValueError(f"{owner}: lengths must be in [1, T = {time}], got {low if low < 1 else high}")


def padded_offsets(lengths: Tensor, time: int) -> Tensor:
    """`cu_seqlens` (2 B + 1,) of a padded batch (B, T) in one row: each sequence, then its padding as another one.

    Their number does not depend on the lengths, so nothing is read from the device and one graph holds for all.
    """
    starts = torch.arange(0, (len(lengths) + 1) * time, time, device=lengths.device)
    return torch.cat((torch.stack((starts[:-1], starts[:-1] + lengths), dim=1).flatten(), starts[-1:])).int()
