"""Sequences of different lengths in one batch (B, T), padded at the end: int64 `lengths` (B,) say where each ends."""

import torch
from einops import rearrange
from torch import Tensor

from seqmix.kernels.checks import describe, has_values
from seqmix.kernels.transforms import is_transformed

__all__ = ["check_lengths", "in_one_row", "out_of_the_row", "padding_of", "without_padding"]


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


def in_one_row(x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """A padded batch x (B, T, D) as packed sequences, each and then its padding as another one.

    Returns them in one row (1, B T, D), their `cu_seqlens` (2 B + 1,), and whose state each begins with (2 B,). Their
    number does not depend on the lengths, so nothing is read from the device and one graph holds for all.
    """
    batch, time = x.shape[:2]
    starts = torch.arange(0, (batch + 1) * time, time, device=x.device)
    inner = torch.stack((starts[:-1], starts[:-1] + lengths), dim=1).flatten()  # (2 B,)
    offsets = torch.cat((inner, starts[-1:])).int()
    return rearrange(x, "b t d -> 1 (b t) d"), offsets, torch.arange(2 * batch, device=x.device) // 2


def padding_of(x: Tensor, lengths: Tensor) -> Tensor:
    """Where x (B, T, D) is padding, (B, T, 1)."""
    return (torch.arange(x.shape[1], device=x.device) >= lengths[:, None]).unsqueeze(-1)


def without_padding(x: Tensor, lengths: Tensor) -> Tensor:
    """Zeros in place of padding: where tokens are weighed by zero, what is not finite would stay."""
    return x.masked_fill(padding_of(x, lengths), 0)


def out_of_the_row(t: Tensor, batch: int) -> Tensor:
    """(B, T, ...) of (1, B T, ...)."""
    return rearrange(t, "1 (b t) ... -> b t ...", b=batch)
