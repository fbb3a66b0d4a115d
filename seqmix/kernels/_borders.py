"""Numba kernels that walk time and keep their state before every so many steps, the borders: room for these, and the
calls of those that walk one head after another.

The backward pass computes the states between two borders again. How many steps lie between is each kernel's own.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from seqmix.kernels._memory import empty_like
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import run

__all__ = ["border_slots", "first_slots", "walk_heads", "walk_heads_back"]


def border_slots(chunk: int, batch: int, length: int, sequences: int) -> int:
    """How many borders there is room for, packed sequences included.

    Two are never used: `torch.compile` makes a graph of its own for every size that can be zero or one.
    """
    return batch * (length // chunk) + 2


def first_slots(chunk: int, bounds: np.ndarray) -> np.ndarray:
    """Where the borders of each sequence begin; `bounds` (S + 1,) are its rows."""
    counts = np.maximum(np.diff(bounds) - 1, 0) // chunk
    return np.cumsum(counts) - counts


def walk_heads(
    kernel: Callable[..., None],
    op: str,
    chunk: int,
    work: int,
    inputs: Sequence[Tensor],
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), the final state (S, H, K, V) and the borders (slots, H, K, V); all of one type.

    `inputs` are q (B, T, H, K), k, v (B, T, H, V) and others (B, T, ...); `work` counts operations for each number of
    a state.
    """
    q, _, v, *_ = inputs
    bounds, heads = offsets(op, q, cu_seqlens), q.shape[2]
    o, final = empty_like(v), empty_like(initial_state)
    slots = first_slots(chunk, bounds)
    room = border_slots(chunk, q.shape[0], q.shape[1], initial_state.shape[0])
    borders = q.new_empty(room, *initial_state.shape[1:])
    borders[int(slots[-1] + max(bounds[-1] - bounds[-2] - 1, 0) // chunk) :] = 0
    given: tuple[Any, ...] = (heads, bounds, slots, *map(rows, inputs), array(initial_state))
    made = (o.flatten(0, 1).numpy(), final.numpy(), borders.numpy())
    run(kernel, (len(bounds) - 1) * heads, work * q.numel() * v.shape[3], *given, *made)
    return o, final, borders


def walk_heads_back(
    kernel: Callable[..., None],
    op: str,
    chunk: int,
    work: int,
    upstream: tuple[Tensor, Tensor],
    inputs: Sequence[Tensor],
    initial_state: Tensor,
    borders: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[list[Tensor], Tensor]:
    """Gradients of `inputs` and of the initial state, from those of o and of the final state, `upstream`."""
    q, _, v, *_ = inputs
    bounds, heads = offsets(op, q, cu_seqlens), q.shape[2]
    gradients, dinitial = [empty_like(t) for t in inputs], empty_like(initial_state)
    given: tuple[Any, ...] = (heads, bounds, first_slots(chunk, bounds), *map(rows, inputs))
    given += (array(initial_state), array(borders), rows(upstream[0]), array(upstream[1]))
    made = (*(t.flatten(0, 1).numpy() for t in gradients), dinitial.numpy())
    run(kernel, (len(bounds) - 1) * heads, work * q.numel() * v.shape[3], *given, *made)
    return gradients, dinitial
