"""Where sequences stand in a batch (B, T): padded at the end, with `lengths` (B,), packed by `cu_seqlens`, or full.

Heads see one answer axis for all three: what is computed of each sequence is (B, 1, ...), or (1, S, ...) packed.
"""

import torch
from torch import Tensor

__all__ = ["last", "mean", "places"]


def places(x: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Tensor]:
    """The number of the sequence of each position (T,) of packed x (1, T, ...), and the position in it."""
    counts = cu_seqlens.diff()
    numbers = torch.arange(len(counts), device=x.device)
    sequence = torch.repeat_interleave(numbers, counts, output_size=x.shape[1])
    return sequence, torch.arange(x.shape[1], device=x.device) - cu_seqlens[:-1][sequence]


def mean(x: Tensor, cu_seqlens: Tensor | None, lengths: Tensor | None) -> Tensor:
    """Mean over the positions of each sequence: x (B, T, D) to (B, 1, D), or (1, S, D); sums in at least float32."""
    wide = x.double() if x.dtype == torch.float64 else x.float()
    if cu_seqlens is not None:
        sequence, _ = places(x, cu_seqlens)
        sums = wide.new_zeros(len(cu_seqlens) - 1, x.shape[-1]).index_add(0, sequence, wide[0])
        return (sums / cu_seqlens.diff().clamp_min(1)[:, None]).to(x.dtype).unsqueeze(0)
    if lengths is None:
        return wide.mean(1, keepdim=True).to(x.dtype)
    inside = torch.arange(x.shape[1], device=x.device) < lengths[:, None]
    # masked_fill, not a product: padding may hold anything.
    sums = wide.masked_fill(~inside.unsqueeze(-1), 0).sum(1, keepdim=True)
    return (sums / lengths[:, None, None]).to(x.dtype)


def last(x: Tensor, cu_seqlens: Tensor | None, lengths: Tensor | None) -> Tensor:
    """The last position of each sequence: x (B, T, D) to (B, 1, D), or (1, S, D) with the position before if empty."""
    if cu_seqlens is not None:
        return x[:, (cu_seqlens[1:].long() - 1).clamp_min(0)]
    if lengths is None:
        return x[:, -1:]
    return x.gather(1, (lengths - 1)[:, None, None].expand(-1, 1, x.shape[-1]))
