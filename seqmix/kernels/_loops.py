"""What the loops over time of torch's LSTM and GRU share: packed sequences in the forward and in the backward pass."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from seqmix.kernels.checks import check_offsets

__all__ = ["aligned", "lengths_of", "shifted", "torch_loop"]


def lengths_of(op: str, cu_seqlens: Tensor, total: int) -> Tensor:
    """Of packed sequences (S,), on the CPU."""
    check_offsets(op, cu_seqlens, total)
    return cu_seqlens.cpu().long().diff()


def torch_loop(
    op: str,
    function: Callable[..., Any],
    x: Tensor,
    states: Sequence[Tensor],
    weights: list[Tensor],
    cu_seqlens: Tensor | None,
) -> list[Tensor]:
    """h (B, T, N) and the last states (S, N) by `torch._VF.lstm` or `torch._VF.gru`, with one bias at each input."""
    options = (True, 1, 0.0, False, False)  # biases, layers, dropout, training, bidirectional

    def first(order: Tensor | None = None) -> Any:
        rows = tuple((s if order is None else s[order]).unsqueeze(0) for s in states)
        return rows if len(rows) > 1 else rows[0]

    if cu_seqlens is None:
        h, *last = function(x.contiguous(), first(), weights, *options, True)
        return [h.clone(memory_format=torch.contiguous_format), *(s[0].clone() for s in last)]
    lengths = lengths_of(op, cu_seqlens, x.shape[1])
    # torch wants time-major rows of the sequences by falling length, without the empty ones.
    order = torch.argsort(lengths, descending=True, stable=True)
    order = order[: int((lengths > 0).sum())]
    lengths = lengths[order]
    running = lengths > torch.arange(int(lengths[0])).unsqueeze(1)
    starts = cu_seqlens.cpu().long()[order]
    packed = (starts + torch.arange(len(running)).unsqueeze(1))[running].to(x.device)
    order = order.to(x.device)
    rows, *last = function(x[0, packed], running.sum(1), first(order), weights, *options)
    h = torch.empty_like(rows).index_copy_(0, packed, rows)
    return [h.unsqueeze(0), *(s.index_copy(0, order, t[0]) for s, t in zip(states, last, strict=True))]


def shifted(rows: Tensor, first: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """What the recurrence saw: the previous row, and at the start of a sequence its initial state."""
    if cu_seqlens is None:
        return torch.cat((first.unsqueeze(1), rows[:, :-1]), dim=1)
    # Of sequences that begin at the same row all but the last are empty.
    row = torch.arange(rows.shape[1], dtype=cu_seqlens.dtype, device=rows.device)
    owner = torch.searchsorted(cu_seqlens, row, right=True) - 1
    begins = (cu_seqlens[owner] == row).view(-1, *(1,) * (rows.ndim - 2))
    return torch.where(begins, first[owner], rows.roll(1, dims=1))


def aligned(rows: Tensor, inside: Tensor, padding: float) -> Tensor:
    """Packed rows (1, L, ...) as a batch (S, T, ...) of sequences that end together, `inside` (S, T) where they are."""
    batch = rows.new_full((*inside.shape, *rows.shape[2:]), padding)
    batch[inside] = rows[0]
    return batch
