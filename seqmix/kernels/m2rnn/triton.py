"""Triton kernels for the loop of M2RNN: a program walks one head of one sequence, its state and W in registers.

The forward pass keeps the state before every `CHUNK`-th step. The backward pass goes from the last chunk to the first:
it walks a chunk again and puts its states where only this program reads, waits for its own threads, and walks back;
equations and letters as in `cpu.py`. Time is not cut: the recurrence is not linear. Products are never shortened.
"""

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels._triton import RUNTIME, Spans, fresh, launch, span, tanh, whole_sequences

OP = "M2RNN"
CHUNK = 32

border_shape = partial(_borders.border_shape, CHUNK)


@triton.jit
def _inputs(p_k, p_v, p_f, o_row, o_k, o_v, keys, values, mask_k, mask_v):
    """k (BK,), v (BV,) and f of one step."""
    b_k = tl.load(p_k + o_row * keys + o_k, mask=mask_k, other=0.0)  # (BK,)
    b_v = tl.load(p_v + o_row * values + o_v, mask=mask_v, other=0.0)  # (BV,)
    return b_k, b_v, tl.load(p_f + o_row)  # scalar


@triton.jit
def _next(b_state, b_W, b_k, b_v, f, ACC: tl.constexpr):
    """The state after a step (BK, BV), and its Z."""
    # (BK, BV)
    U = tl.dot(b_state, b_W, input_precision="ieee", out_dtype=ACC) + b_k[:, None] * b_v[None, :]
    Z = tanh(U)
    return f * b_state + (1 - f) * Z, Z


@triton.jit(do_not_specialize=RUNTIME)
def _forward(
    p_q, p_k, p_v, p_f, p_W, p_initial, p_o, p_final, p_borders, p_slots,
    p_offsets, length, chunk, chunks, heads, keys, values,
    STEPS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = p_final.dtype.element_ty
    i_s, i_h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    o_k, o_v, o_w = tl.arange(0, BK), tl.arange(0, BV), tl.arange(0, BV)
    mask_k, mask_v = o_k < keys, o_v < values
    mask_s, o_tile = mask_k[:, None] & mask_v[None, :], o_k[:, None] * values + o_v[None, :]
    mask_w = (o_w < values)[:, None] & mask_v[None, :]
    # (BV, BV)
    b_W = tl.load(p_W + (i_h * values + o_w[:, None]) * values + o_v[None, :], mask=mask_w, other=0.0)
    o_state = (i_s * heads + i_h) * keys * values + o_tile
    b_state = tl.load(p_initial + o_state, mask=mask_s, other=0.0)  # (BK, BV)
    slot = tl.load(p_slots + i_s)  # scalar
    first, last = span(i_s, p_offsets, length, chunk, chunks)
    for t in range(first, last):
        # The state before a chunk that is not the first.
        n = (t - first) // STEPS
        border = 0 * o_tile + (t - first) % STEPS + (n == 0) * STEPS == 0  # a block, as masks are
        o_border = ((slot + n - 1) * heads + i_h) * keys * values + o_tile
        tl.store(p_borders + o_border, b_state, mask=mask_s & border)
        # A step.
        o_row = t * heads + i_h
        b_k, b_v, f = _inputs(p_k, p_v, p_f, o_row, o_k, o_v, keys, values, mask_k, mask_v)
        b_state, _ = _next(b_state, b_W, b_k, b_v, f, kind)
        b_q = tl.load(p_q + o_row * keys + o_k, mask=mask_k, other=0.0)  # (BK,)
        tl.store(p_o + o_row * values + o_v, tl.sum(b_q[:, None] * b_state, 0), mask=mask_v)
    tl.store(p_final + o_state, b_state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    p_do, p_dfinal, p_q, p_k, p_v, p_f, p_W, p_initial, p_borders, p_slots, p_path, p_clip,
    p_dq, p_dk, p_dv, p_df, p_dW, p_dinitial,
    p_offsets, length, chunk, chunks, heads, keys, values,
    STEPS: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = p_dinitial.dtype.element_ty
    i_s, i_h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    o_k, o_v, o_w = tl.arange(0, BK), tl.arange(0, BV), tl.arange(0, BV)
    mask_k, mask_v = o_k < keys, o_v < values
    mask_s, o_tile = mask_k[:, None] & mask_v[None, :], o_k[:, None] * values + o_v[None, :]
    mask_w = (o_w < values)[:, None] & mask_v[None, :]
    o_W = o_w[:, None] * values + o_v[None, :]
    b_W = tl.load(p_W + i_h * values * values + o_W, mask=mask_w, other=0.0)  # (BV, BV)
    size = keys * values
    o_state, o_path = (i_s * heads + i_h) * size + o_tile, (i_s * heads + i_h) * STEPS * size + o_tile
    b_G = tl.load(p_dfinal + o_state, mask=mask_s, other=0.0)  # (BK, BV)
    b_dW = tl.zeros((BV, BV), kind)
    slot, bound = tl.load(p_slots + i_s), tl.load(p_clip)  # scalar, scalar
    first, last = span(i_s, p_offsets, length, chunk, chunks)
    number = (last - first + STEPS - 1) // STEPS
    for i_c in range(number):
        n = number - 1 - i_c
        start, count = first + n * STEPS, tl.minimum(STEPS, last - first - n * STEPS)
        # The states of the chunk again.
        begins = 0 * o_tile + n == 0
        o_border = ((slot + n - 1) * heads + i_h) * size + o_tile
        b_border = tl.load(p_borders + o_border, mask=mask_s & ~begins, other=0.0)  # (BK, BV)
        b_initial = tl.load(p_initial + o_state, mask=mask_s & begins, other=0.0)  # (BK, BV)
        b_state = b_border + b_initial
        for j in range(count):
            tl.store(p_path + o_path + j * size, b_state, mask=mask_s)
            o_row = (start + j) * heads + i_h
            b_k, b_v, f = _inputs(p_k, p_v, p_f, o_row, o_k, o_v, keys, values, mask_k, mask_v)
            b_state, _ = _next(b_state, b_W, b_k, b_v, f, kind)
        tl.debug_barrier()
        # Its steps back: dL/dH_t, cut, then what depends on it.
        for j in range(count):
            i = count - 1 - j
            o_row = (start + i) * heads + i_h
            b_p = tl.load(p_path + o_path + i * size, mask=mask_s, other=0.0)  # (BK, BV)
            b_k, b_v, f = _inputs(p_k, p_v, p_f, o_row, o_k, o_v, keys, values, mask_k, mask_v)
            after, Z = _next(b_p, b_W, b_k, b_v, f, kind)
            b_q = tl.load(p_q + o_row * keys + o_k, mask=mask_k, other=0.0)  # (BK,)
            b_g = tl.load(p_do + o_row * values + o_v, mask=mask_v, other=0.0)  # (BV,)
            b_G += b_q[:, None] * b_g[None, :]
            b_G = tl.where(b_G == b_G, tl.minimum(tl.maximum(b_G, -bound), bound), b_G)
            dU = (1 - f) * b_G * (1 - Z * Z)
            tl.store(p_dq + o_row * keys + o_k, tl.sum(after * b_g[None, :], 1), mask=mask_k)
            tl.store(p_dk + o_row * keys + o_k, tl.sum(dU * b_v[None, :], 1), mask=mask_k)
            tl.store(p_dv + o_row * values + o_v, tl.sum(dU * b_k[:, None], 0), mask=mask_v)
            tl.store(p_df + o_row, tl.sum(tl.sum(b_G * (b_p - Z), 1), 0))
            b_dW += tl.dot(tl.trans(b_p), dU, input_precision="ieee", out_dtype=kind)  # (BV, BV)
            # (BK, BV)
            b_G = f * b_G + tl.dot(dU, tl.trans(b_W), input_precision="ieee", out_dtype=kind)
        tl.debug_barrier()
    tl.store(p_dinitial + o_state, b_G, mask=mask_s)
    tl.store(p_dW + (i_s * heads + i_h) * values * values + o_W, b_dW, mask=mask_w)


def _slots(spans: Spans, device: torch.device) -> Tensor:
    """Where the borders of each sequence begin (S,), on the device."""
    if spans.offsets is None:
        return torch.arange(spans.number, device=device) * ((spans.length - 1) // CHUNK)
    counts = (spans.offsets.long().diff() - 1).clamp(min=0) // CHUNK
    return counts.cumsum(0) - counts


def _run(kernel: Any, spans: Spans, state: Tensor, *tensors: Tensor) -> None:
    heads, keys, values = state.shape[1:]
    BK, BV = (max(16, triton.next_power_of_2(width)) for width in (keys, values))  # tl.dot wants 16 of everything
    launch(
        kernel,
        spans.number * heads,
        *(tensor.detach().contiguous() for tensor in tensors),
        *spans.arguments,
        heads,
        keys,
        values,
        STEPS=CHUNK,
        BK=BK,
        BV=BV,
        num_warps=4 if BK * BV <= 1024 else 8,
    )


def forward(
    q: Tensor, k: Tensor, v: Tensor, f: Tensor, W: Tensor, state: Tensor, cu_seqlens: Tensor | None, clip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), the final state (S, H, K, V) and the borders in one row."""
    spans, o, final = whole_sequences(OP, q, cu_seqlens), fresh(v), fresh(state)
    borders = q.new_zeros(border_shape(q.shape, len(state), state.shape[1:]))
    _run(_forward, spans, state, q, k, v, f, W, state, o, final, borders, _slots(spans, q.device))
    return o, final, borders


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, f: Tensor, W: Tensor, state: Tensor, borders: Tensor,
    cu_seqlens: Tensor | None, clip: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, f, W and the initial state."""
    spans, gradients, dstate = whole_sequences(OP, q, cu_seqlens), [fresh(t) for t in (q, k, v, f)], fresh(state)
    dW = fresh(W, state.shape[0], *W.shape)  # of every sequence by itself
    path, bound = fresh(state, *state.shape[:2], CHUNK, *state.shape[2:]), q.new_full((1,), clip)
    given = (do, dfinal, q, k, v, f, W, state, borders, _slots(spans, q.device), path, bound)
    _run(_backward, spans, state, *given, *gradients, dW, dstate)
    return *gradients, dW.sum(0), dstate
