"""Tokens of other ranks that a layer reads as they are: windows, and the keys of attention.

Each rank holds the last sequence of its part ready, which is the one that goes on: a window is its last rows, of the
rank before alone; keys and values are all of its rows, or as many as a window has, of all ranks from that where the
sequence began. Every rank gets the rows of all, and gradients of what it has used go back to their ranks.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F

from seqmix.distributed.messages import gather, of_all
from seqmix.kernels._handing import handing
from seqmix.mixers._key_rows import Earlier

__all__ = ["OPS"]

Op = Callable[..., Any]


def _of_last(x: Tensor, cu_seqlens: Tensor | None) -> tuple[int, bool]:
    """How many tokens of a part belong to its last sequence, and whether that is all that there is."""
    if cu_seqlens is None:
        return x.shape[1], True
    return int(cu_seqlens[-1] - cu_seqlens[-2]), len(cu_seqlens) == 2


def _last(x: Tensor, count: int, most: int) -> Tensor:
    """The last `count` rows of x (B, T, ...) behind so many of zeros that there are `most`."""
    return F.pad(x[:, x.shape[1] - count :], (*(0, 0) * (x.ndim - 2), most - count, 0))


def _window(group: dist.ProcessGroup, rank: int, op: Op, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """An op of x (B, T, D) whose state is the last rows of x before it, (S, W - 1, D)."""
    x, begin, cu_seqlens = args[0], kwargs["initial_state"], kwargs.get("cu_seqlens")
    rows = begin.shape[1]
    if rows:
        count, goes_on = _of_last(x, cu_seqlens)
        ends = _last(x, min(rows, count), rows).to(begin.dtype)
        # All ranks hear of a part that is shorter than the window.
        short = ends.new_full((1,), float(bool(rank) and goes_on and count < rows))
        x, messages = gather(x, torch.cat((short, ends.flatten())), group)
        if bool(messages[:, 0].any()):
            raise ValueError("sequence_parallel: expected parts at least as long as a layer's window")
        if rank:
            before = messages[rank - 1, 1:].view(ends.shape)
            begin = before if cu_seqlens is None else torch.cat((before, begin[1:]))
    with handing(None):
        return op(x, *args[1:], **kwargs | {"initial_state": begin})


def _earlier_rows(
    group: dist.ProcessGroup, rank: int, op: Op, args: tuple[Tensor, Tensor, Tensor], kwargs: dict[str, Any]
) -> tuple[Tensor, Earlier | None]:
    """`seqmix.mixers._key_rows.earlier_rows` over ranks."""
    (k, v, log_f), window = args, kwargs["window"]
    count, goes_on = _of_last(k, kwargs["cu_seqlens"])
    rows = count if window is None else min(count, window - 1)
    mine = torch.tensor([rows, count, goes_on], device=k.device)
    each = of_all(mine, group).tolist()
    most = max(rows for rows, _, _ in each)
    gates = [log_f.unsqueeze(-1)] if log_f.shape[-1] else []
    sent = _last(torch.cat((k, v, *gates), -1), rows, most)  # (B, most, H, 2 K or 2 K + 1)
    if most:
        k, messages = gather(k, sent.flatten(), group)
        messages = messages.view(-1, *sent.shape)
    else:
        messages = sent.expand(group.size(), *sent.shape)
    if rank == 0:
        return k, None
    parts: list[Tensor] = []
    total = 0
    for before in range(rank - 1, -1, -1):
        rows, count, goes_on = each[before]
        parts.insert(0, messages[before][:, most - rows :])
        total += count
        if not goes_on:
            break
    whole = torch.cat(parts, 1)
    if window is not None:
        whole = whole[:, max(0, whole.shape[1] - window + 1) :]
    width = k.shape[-1]
    forget = whole[..., 2 * width].to(log_f.dtype) if gates else log_f.new_zeros(*whole.shape[:2], 0)
    return k, Earlier(total, whole[..., :width].to(k.dtype), whole[..., width : 2 * width].to(v.dtype), forget)


# By the names of ops: handlers of one rank, (group, rank, op, args, kwargs).
OPS: dict[str, Callable[..., Any]] = {
    "causal_conv1d": _window,
    "lags": _window,
    "token_before": _window,
    "earlier_rows": _earlier_rows,
}
