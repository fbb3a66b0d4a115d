"""Rows of keys: attention's state, which of them a query sees, and which a cache keeps.

Letters: S sequences, M rows of a cache, aligned at the right, T new ones.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.kernels._handing import handed_on
from seqmix.kernels.checks import describe, has_values
from seqmix.mixers.state import mixer_state


@mixer_state
class AttentionState(NamedTuple):
    """Keys and values k, v (S, M, H, K), right-aligned: the last `length` (S,) rows of the M count, those before
    are padding. `position` (S,) is the index of the next token; both counters are int64."""

    k: Tensor
    v: Tensor
    position: Tensor
    length: Tensor
    forget: Tensor  # (S, M, H), the log forget gates after each key, summed; float32 or float64, (S, M, 0) without
    conv: Tensor  # (S, d_conv - 1, 3 d_model), in the type of the activations, empty without
    window: Tensor  # (S, W - 1, H K/2) of Selective RoPE's convolution, empty without
    angle: Tensor  # (S, H, K/2) of Selective RoPE, empty without


class Earlier(NamedTuple):
    """Rows of a sequence that begins on another rank: the last M of `tokens` ones, keys not turned yet."""

    tokens: int
    k: Tensor  # (B, M, H, K)
    v: Tensor
    log_f: Tensor  # (B, M, H), or (B, M, 0) without forget gates


@handed_on
def earlier_rows(
    k: Tensor, v: Tensor, log_f: Tensor, *, window: int | None, cu_seqlens: Tensor | None
) -> tuple[Tensor, Earlier | None]:
    """k as it is, and what the first sequence here goes on from: nothing where sequences are whole."""
    return k, None


Turn = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def state_after(earlier: Earlier | None, state: AttentionState, turn: Turn) -> AttentionState:
    """That of sequences after rows of other ranks; `turn(q, k, position)` turns both from `position` (B,) on."""
    if earlier is None:
        return state
    rows, first = earlier.k.shape[1], torch.full_like(state.position, earlier.tokens)
    sums = earlier.log_f.to(torch.float64).cumsum(1)
    return state._replace(
        k=turn(earlier.k, earlier.k, first - rows)[1],
        v=earlier.v,
        position=first,
        length=torch.full_like(first, rows),
        forget=(sums[:, -1:] - sums).to(earlier.log_f.dtype),
    )


def check_rows(state: AttentionState, n_heads: int, d_head: int, forget_gate: bool) -> None:
    """`ValueError` for a state whose rows are not those of these heads."""
    for name, rows in (("k", state.k), ("v", state.v)):
        if rows.ndim != 4 or rows.shape[2:] != (n_heads, d_head):
            raise ValueError(
                f"Attention: state.{name} must have shape (S, M, {n_heads}, {d_head}), got {describe(rows)}"
            )
    forget = (*state.k.shape[:2], n_heads if forget_gate else 0)
    if state.forget.shape != forget:
        raise ValueError(f"Attention: state.forget must have shape {forget}, got {tuple(state.forget.shape)}")
    if state.k.shape != state.v.shape:
        raise ValueError(
            f"Attention: state.v must have the shape of state.k, {tuple(state.k.shape)}, got {tuple(state.v.shape)}"
        )


def visible(cached: int, length: int, window: int | None, counts: Tensor | None, device: torch.device) -> Tensor:
    """Whether a new token sees a key: (T, M + T), or (S, 1, T, M + T) with `counts` (S,) of the cached rows in use.

    The mask is aligned at the lower right; with a window a token sees itself and the `window - 1` before it.
    """
    key = torch.arange(cached + length, device=device)
    query = key[cached:, None]  # (T, 1)
    mask = key <= query
    if window is not None:
        mask = mask & (key > query - window)
    if cached and counts is not None:
        mask = mask & (key >= cached - counts[:, None, None, None])
    return mask


def last_rows(most: int, *tensors: Tensor) -> list[Tensor]:
    """The last rows of tensors (S, M, ...), `most` of them where there are as many."""
    end = tensors[0].shape[1]
    # sym_max and a gather: a slice would compile one graph for each side of the window.
    kept = torch.arange(torch.sym_max(end - most, 0), end, device=tensors[0].device)
    return [rows.index_select(1, kept) for rows in tensors]


def may_be_padded(state: AttentionState) -> bool:
    """Whether rows may stand before the last `length` of a state; yes where nobody can look without waiting."""
    rows = state.k.shape[1]
    return bool(rows) and not (has_values(state.length) and bool((state.length == rows).all()))


def state_with(
    state: AttentionState, rows: Sequence[Tensor], length: int, lengths: Tensor | None, window: int | None
) -> AttentionState:
    """`state` with keys, values and forget gates (B, M + T, ...) after T = `length` tokens, or `lengths` (B,) each."""
    count = length if lengths is None else lengths
    seen = state.length + count
    if lengths is not None:
        rows = [moved_to_the_end(each, length - lengths) for each in rows]
    if window is not None:
        rows, seen = last_rows(window - 1, *rows), seen.clamp(max=window - 1)
    keys, values, forget = rows
    return state._replace(k=keys, v=values, forget=forget, position=state.position + count, length=seen)


def moved_to_the_end(rows: Tensor, by: Tensor) -> Tensor:
    """rows (S, M, ...) moved on by `by` (S,) places; the last ones go, zeros come in front."""
    origin = torch.arange(rows.shape[1], device=rows.device) - by[:, None]
    shape = (*origin.shape, *(1,) * (rows.ndim - 2))
    moved = rows.take_along_dim(origin.clamp_min(0).view(shape), 1)
    return moved.masked_fill((origin < 0).view(shape), 0)


def right_aligned(parts: Sequence[Tensor], dtype: torch.dtype) -> Tensor:
    """(1, M_s, ...) for every sequence as one (S, M, ...) with zeros in front."""
    longest = max(part.shape[1] for part in parts)
    behind = (0, 0) * (parts[0].ndim - 2)
    return torch.cat([F.pad(part, (*behind, longest - part.shape[1], 0)).to(dtype) for part in parts])
