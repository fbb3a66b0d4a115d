"""Numba kernels that walk time and keep their state before every so many steps, the borders: room for these, and the
calls of those that walk one head after another.

The backward pass computes the states between two borders again. How many steps lie between is each kernel's own.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from seqmix.kernels._in_place import final_like
from seqmix.kernels._memory import empty_like
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import run

__all__ = ["as_borders", "border_shape", "first_slots", "walk_heads", "walk_heads_back"]

_SPARE = 2  # numbers never used: `torch.compile` makes a graph of its own for every size that can be zero or one


def border_shape(chunk: int, inputs: Sequence[int], sequences: int, state: Sequence[int]) -> tuple[int, ...]:
    """Room for all borders of states of shape `state` in one row, packed sequences included; `inputs` is (B, T, ...).

    How many `sequences` there are matters where kernels keep a border before the first step, too, as in Triton.
    """
    return (inputs[0] * (inputs[1] // chunk) * math.prod(state) + _SPARE,)


def as_borders(row: Tensor, state: Sequence[int]) -> np.ndarray:
    """The array (slots, *state) in what `border_shape` made room for."""
    numbers = row.numel() - _SPARE
    return array(row)[:numbers].reshape(numbers // max(1, math.prod(state)), *state)


def first_slots(chunk: int, bounds: np.ndarray) -> np.ndarray:
    """Where the borders of each sequence begin; `bounds` (S + 1,) are its rows."""
    counts = np.maximum(np.diff(bounds) - 1, 0) // chunk
    return np.cumsum(counts) - counts


def _read(inputs: Sequence[Tensor], shared: int) -> Iterator[np.ndarray]:
    """Rows (B T, H, ...), of the first `shared` inputs (B T, 1, ...) where a head is a view of every other."""
    for i, x in enumerate(inputs):
        yield rows(x[:, :, :1] if i < shared and x.stride(2) == 0 else x)


def walk_heads(
    kernel: Callable[..., None],
    op: str,
    chunk: int,
    work: int,
    inputs: Sequence[Tensor],
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    shared: int = 0,
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), the final state (S, H, K, V) and the borders in one row; all of one type.

    `inputs` are q (B, T, H, K), k, v (B, T, H, V) and others (B, T, ...), of which the kernel takes the first `shared`
    of one head where that is the one of all; `work` counts operations for each number of a state.
    """
    q, _, v, *_ = inputs
    bounds, heads = offsets(op, q, cu_seqlens), q.shape[2]
    o, final = empty_like(v), final_like(initial_state)
    slots = first_slots(chunk, bounds)
    state = initial_state.shape[1:]
    borders = q.new_empty(border_shape(chunk, q.shape, len(initial_state), state))
    filled = int(slots[-1] + max(bounds[-1] - bounds[-2] - 1, 0) // chunk)
    borders[filled * math.prod(state) :] = 0
    given: tuple[Any, ...] = (heads, bounds, slots, *_read(inputs, shared), array(initial_state))
    made = (o.flatten(0, 1).numpy(), final.numpy(), as_borders(borders, state))
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
    shared: int = 0,
) -> tuple[list[Tensor], Tensor]:
    """Gradients of `inputs` and of the initial state, from those of o and of the final state, `upstream`."""
    q, _, v, *_ = inputs
    bounds, heads = offsets(op, q, cu_seqlens), q.shape[2]
    gradients, dinitial = [empty_like(t) for t in inputs], empty_like(initial_state)
    given: tuple[Any, ...] = (heads, bounds, first_slots(chunk, bounds), *_read(inputs, shared))
    given += (array(initial_state), as_borders(borders, initial_state.shape[1:]), rows(upstream[0]), array(upstream[1]))
    made = (*(t.flatten(0, 1).numpy() for t in gradients), dinitial.numpy())
    run(kernel, (len(bounds) - 1) * heads, work * q.numel() * v.shape[3], *given, *made)
    return gradients, dinitial
