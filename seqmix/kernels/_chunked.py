"""Plain torch in two levels, for devices without kernels of ours: about 2 sqrt(T) rounds of launches in place of T.

A recurrence that is linear in its state runs over all chunks at once from zero and from the identity, then from chunk
to chunk. Everything is a product of what the loop multiplies, in its order: nothing is divided by.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.functional import pad

from seqmix.kernels.diagonal_scan import reference


def diagonal_scan(a: Tensor, x: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """The reference's `diagonal_scan`, with its arguments and results."""
    batch, length, _ = x.shape
    a, x = _cut(a.expand_as(x), 1), _cut(x, 0)
    zero = torch.zeros_like(x[:, 0], dtype=initial_state.dtype)
    local, last = reference.diagonal_scan(a, x, zero)
    factors, factor = reference.diagonal_scan(a, torch.zeros_like(x), zero + 1)
    factor, last = (t.unflatten(0, (batch, -1)) for t in (factor, last))
    states, final = reference.diagonal_scan(factor, last, initial_state)
    entering = torch.cat((initial_state.unsqueeze(1), states[:, :-1]), 1).flatten(0, 1)
    return _join(local + factors * entering.unsqueeze(1), batch, length), final


def matrix_recurrence(
    recurrence: Callable[..., tuple[Tensor, Tensor]], q: Tensor, k: Tensor, v: Tensor, *rest: Tensor, chunked: bool
) -> tuple[Tensor, Tensor]:
    """`recurrence(q, k, v, *gates, initial_state=S)` for a state S (B, H, K, V) that columns of v enter on their own.

    `rest` are the gates and S. Columns that nothing enters and that start from the identity give the map from a chunk's
    first state to its outputs and to its last state. Queries, keys and gates may be padded with zeros at the end.
    """
    *gates, initial_state = rest
    if not chunked:
        return recurrence(q, k, v, *gates, initial_state=initial_state)
    batch, length, heads, values = v.shape
    keys = initial_state.shape[2]
    cut = [_cut(t, 0) for t in (q, k, pad(v, (0, keys)), *gates)]
    eye = torch.eye(keys, dtype=initial_state.dtype, device=v.device).expand(len(cut[0]), heads, keys, keys)
    o, last = recurrence(*cut, initial_state=pad(eye, (values, 0)))
    (local, through), (written, carried) = (t.split((values, keys), -1) for t in (o, last))
    S, entering = initial_state, []
    for carry, write in zip(*(t.unflatten(0, (batch, -1)).unbind(1) for t in (carried, written)), strict=True):
        entering.append(S)
        S = carry @ S + write
    starts = torch.stack(entering, 1).flatten(0, 1)
    return _join(local + torch.einsum("bthk,bhkv->bthv", through, starts), batch, length), S


def _cut(x: Tensor, padding: float) -> Tensor:
    """x (B, T, ...) as chunks (B n, C, ...) of about sqrt(T) tokens, the last one padded."""
    length = x.shape[1]
    size = max(1, math.isqrt(length))
    padded = pad(x, (*(0, 0) * (x.ndim - 2), 0, -length % size), value=padding)
    return padded.unflatten(1, (-1, size)).flatten(0, 1)


def _join(chunks: Tensor, batch: int, length: int) -> Tensor:
    return chunks.unflatten(0, (batch, -1)).flatten(1, 2)[:, :length].contiguous()
