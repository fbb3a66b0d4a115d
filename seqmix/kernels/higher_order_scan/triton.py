"""Triton kernels for h_t = sum_i a_{t,i} h_{t-i} + x_t: m multiplies a step, the lags of a channel in registers.

A program walks one span for a warp of channels. Loads of STEPS steps are under way before the first is used. Where
spans are chunks, the map from the lags before a chunk to those after it is m runs from unit lags, m^2 multiplies a
step; as matrices (C, N, m, m) they carry the lags through `block_scan`'s kernels. Letters: C spans, N channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import (
    RUNTIME,
    Spans,
    chunk_length,
    cut,
    fresh,
    lanes,
    launch,
    program_of,
    sequence_of,
    span,
    whole_sequences,
)
from seqmix.kernels.block_scan.triton import run_scan

# The runs of a chunk hold m^2 numbers a channel in registers: above this order, sequences are walked whole.
_LARGEST_CHUNKED = 8


@triton.jit
def _softmax(logits, SLOTS: tl.constexpr):
    largest = logits[0]
    for k in tl.static_range(1, SLOTS):
        largest = tl.maximum(largest, logits[k], propagate_nan=tl.PropagateNan.ALL)
    weights = ()
    total = tl.zeros_like(largest)
    for k in tl.static_range(SLOTS):
        weight = tl.exp(logits[k] - largest)
        weights = weights + (weight,)
        total += weight
    gates = ()
    for k in tl.static_range(SLOTS):
        gates = gates + (weights[k] / total,)
    return gates


@triton.jit
def _push(value, lags, keep, M: tl.constexpr):
    """`value` in front of the first M - 1 of `lags`, where `keep` is false; else the lags as they are."""
    pushed = (tl.where(keep, lags[0], value),)
    for i in tl.static_range(1, M):
        pushed = pushed + (tl.where(keep, lags[i], lags[i - 1]),)
    return pushed


@triton.jit(do_not_specialize=RUNTIME)
def _forward(
    p_a, p_x, p_initial, p_h, p_final, p_product, p_offsets, length, chunk, chunks, channels,
    M: tl.constexpr, GATED: tl.constexpr, STEPS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Without `p_h` only `p_final` and `p_product`, the lags and the map of lags at the end of the span, are wanted.
    kind: tl.constexpr = p_final.dtype.element_ty
    SLOTS: tl.constexpr = M + 1 if GATED else M
    i_span, o_n = program_of(channels, BN)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    mask_n = o_n < channels
    o_state = (i_span * channels + o_n) * M
    # The lags before the span, m planes (BN,), and the map of lags.
    lags = ()
    runs = ()
    for i in tl.static_range(M):
        if p_initial is None:
            lags = lags + (tl.zeros((BN,), kind),)
        else:
            lags = lags + (tl.load(p_initial + o_state + i, mask=mask_n, other=0.0),)  # (BN,)
        if p_product is not None:
            for j in tl.static_range(M):
                runs = runs + (tl.full((BN,), 1.0 if i == j else 0.0, kind),)
    for start in tl.range(first, last, STEPS):
        # Loads of several steps at once.
        gates = ()
        values = ()
        for u in tl.static_range(STEPS):
            mask = mask_n & (0 * o_n + start + u < last)
            o_at = (start + u) * channels + o_n
            for k in tl.static_range(SLOTS):
                gates = gates + (tl.load(p_a + o_at * SLOTS + k, mask=mask, other=0.0).to(kind),)  # (BN,)
            values = values + (tl.load(p_x + o_at, mask=mask, other=0.0).to(kind),)  # (BN,)
        # The steps, one by one.
        for u in tl.static_range(STEPS):
            over = 0 * o_n + start + u >= last
            g = gates[u * SLOTS : (u + 1) * SLOTS]
            value = values[u]
            if GATED:
                g = _softmax(g, SLOTS)
                value *= g[M]
            for i in tl.static_range(M):
                value += g[i] * lags[i]
            lags = _push(value, lags, over, M)
            if p_h is not None:
                tl.store(p_h + (start + u) * channels + o_n, value.to(p_h.dtype.element_ty), mask=mask_n & (over == 0))
            if p_product is not None:
                following = ()
                for j in tl.static_range(M):
                    run = runs[j * M : (j + 1) * M]
                    value = g[0] * run[0]
                    for i in tl.static_range(1, M):
                        value += g[i] * run[i]
                    following = following + _push(value, run, over, M)
                runs = following
    # What the span hands on.
    for i in tl.static_range(M):
        tl.store(p_final + o_state + i, lags[i], mask=mask_n)
        if p_product is not None:
            for j in tl.static_range(M):
                tl.store(p_product + (o_state + i) * M + j, runs[j * M + i], mask=mask_n)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    p_a, p_x, p_h, p_initial, p_dh, p_dfinal, p_da, p_dx, p_dinitial, p_of, p_bounds,
    p_offsets, length, chunk, chunks, channels,
    M: tl.constexpr, GATED: tl.constexpr, STEPS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # carry[i] is the adjoint of lag i + 1: s_t = dh_t + carry[0], then carry[i] = carry[i + 1] + a_i s_t. Values
    # before a sequence are in `p_initial` (S, N, m). Without `p_dx` only `p_dinitial`, what a span hands on, is wanted.
    kind: tl.constexpr = p_dinitial.dtype.element_ty
    SLOTS: tl.constexpr = M + 1 if GATED else M
    i_span, o_n = program_of(channels, BN)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    i_s, begin, _ = sequence_of(i_span, p_of, p_bounds, length, chunks)
    mask_n = o_n < channels
    o_state = (i_span * channels + o_n) * M
    # What comes into the span, m planes (BN,).
    b_carry = ()
    for i in tl.static_range(M):
        if p_dfinal is None:
            b_carry = b_carry + (tl.zeros((BN,), kind),)
        else:
            b_carry = b_carry + (tl.load(p_dfinal + o_state + i, mask=mask_n, other=0.0),)  # (BN,)
    for start in tl.range(first, last, STEPS):
        newest = first + last - 1 - start
        # Loads of several steps at once.
        gates = ()
        values = ()
        upstream = ()
        for u in tl.static_range(STEPS):
            mask = mask_n & (0 * o_n + newest - u >= first)
            o_at = (newest - u) * channels + o_n
            for k in tl.static_range(SLOTS):
                gates = gates + (tl.load(p_a + o_at * SLOTS + k, mask=mask, other=0.0).to(kind),)  # (BN,)
            upstream = upstream + (tl.load(p_dh + o_at, mask=mask, other=0.0).to(kind),)  # (BN,)
            if GATED and p_dx is not None:
                values = values + (tl.load(p_x + o_at, mask=mask, other=0.0).to(kind),)  # (BN,)
        # past[k] is h at `newest - 1 - k`.
        past = ()
        if p_dx is not None:
            for k in tl.static_range(STEPS + M - 1):
                o_row = 0 * o_n + newest - 1 - k
                # (BN,)
                b_value = tl.load(p_h + o_row * channels + o_n, mask=mask_n & (o_row >= begin), other=0.0).to(kind)
                o_place = (i_s * channels + o_n) * M + begin - 1 - o_row
                # (BN,)
                b_older = tl.load(p_initial + o_place, mask=mask_n & (o_row < begin) & (o_row >= begin - M), other=0.0)
                past = past + (tl.where(o_row >= begin, b_value, b_older),)
        # The steps, back in time: the adjoint, then the gradients.
        for u in tl.static_range(STEPS):
            inside = 0 * o_n + newest - u >= first
            mask = mask_n & inside
            o_at = (newest - u) * channels + o_n
            g = gates[u * SLOTS : (u + 1) * SLOTS]
            if GATED:
                g = _softmax(g, SLOTS)
            adjoint = upstream[u] + b_carry[0]
            following = ()
            for i in tl.static_range(M - 1):
                following = following + (tl.where(inside, b_carry[i + 1] + g[i] * adjoint, b_carry[i]),)
            b_carry = following + (tl.where(inside, g[M - 1] * adjoint, b_carry[M - 1]),)
            if p_dx is not None:
                if GATED:
                    # h_t again from the same rounded values that it is subtracted from, so that errors cancel.
                    now = g[M] * values[u]
                    for i in tl.static_range(M):
                        now += g[i] * past[u + i]
                    flow = adjoint * g[M]
                    d = flow * (values[u] - now)
                    tl.store(p_da + o_at * SLOTS + M, d.to(p_da.dtype.element_ty), mask=mask)
                    tl.store(p_dx + o_at, flow.to(p_dx.dtype.element_ty), mask=mask)
                else:
                    tl.store(p_dx + o_at, adjoint.to(p_dx.dtype.element_ty), mask=mask)
                for i in tl.static_range(M):
                    if GATED:
                        d = adjoint * g[i] * (past[u + i] - now)
                    else:
                        d = adjoint * past[u + i]
                    tl.store(p_da + o_at * SLOTS + i, d.to(p_da.dtype.element_ty), mask=mask)
    for i in tl.static_range(M):
        tl.store(p_dinitial + o_state + i, b_carry[i], mask=mask_n)


def _run(kernel, spans: Spans, channels: int, order: int, gated: bool, *arguments: object) -> None:
    width = lanes(channels, 32)
    # About 32 loads are under way in each thread.
    tile = {"STEPS": max(1, min(8, 32 // (order + 2))), "BN": width, "num_warps": 1}
    programs = spans.number * triton.cdiv(channels, width)
    launch(kernel, programs, *arguments, *spans.arguments, channels, M=order, GATED=gated, **tile)


def _prepare(x: Tensor, order: int, cu_seqlens: Tensor | None, gated: bool) -> tuple[Spans, int | None]:
    """The sequences, and the length of chunks if they are cut."""
    sequences = whole_sequences("gated_higher_order_scan" if gated else "higher_order_scan", x, cu_seqlens)
    if order > _LARGEST_CHUNKED:
        return sequences, None
    return sequences, chunk_length(sequences.number * -(-x.shape[2] // 32), sequences.length)


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().contiguous() for t in tensors)


_PLAIN = {"GATED": False, "REVERSE": False, "ADJOINT": False}


def forward(
    a: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, gated: bool
) -> tuple[Tensor, Tensor]:
    """h (B, T, N) and the last m values (S, N, m), newest first; `a` holds coefficients, or logits where `gated`."""
    a, x, initial_state = _contiguous(a, x, initial_state)
    channels, order = initial_state.shape[1:]
    sequences, chunk = _prepare(x, order, cu_seqlens, gated)
    h, final = fresh(x), fresh(initial_state)
    if chunk is None:
        _run(_forward, sequences, channels, order, gated, a, x, initial_state, h, final, None)
        return h, final
    chunked = cut(sequences, chunk)
    last, after = (fresh(initial_state, chunked.spans.number, channels, order) for _ in range(2))
    product = fresh(initial_state, chunked.spans.number, channels, order, order)
    _run(_forward, chunked.spans, channels, order, gated, a, x, None, None, last, product)
    run_scan(last, product, initial_state, after, final, None, spans=chunked.relay, **_PLAIN)
    _run(_forward, chunked.spans, channels, order, gated, a, x, chunked.starts(initial_state, after), h, last, None)
    return h, final


def backward(
    dh: Tensor, dfinal: Tensor, a: Tensor, x: Tensor, h: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `a` (coefficients or logits), x (or v) and the initial state."""
    dh, dfinal, a, x, h, initial_state = _contiguous(dh, dfinal, a, x, h, initial_state)
    channels, order = initial_state.shape[1:]
    sequences, chunk = _prepare(x, order, cu_seqlens, gated)
    da, dx, dinitial = fresh(a), fresh(x), fresh(initial_state)
    if chunk is None:
        bounds = sequences.offsets
        places = (None, None) if bounds is None else (torch.arange(sequences.number, device=x.device), bounds)
        tensors = (a, x, h, initial_state, dh, dfinal, da, dx, dinitial)
        _run(_backward, sequences, channels, order, gated, *tensors, *places)
        return da, dx, dinitial
    chunked = cut(sequences, chunk)
    spans = chunked.spans
    first, last, handed_on = (fresh(initial_state, spans.number, channels, order) for _ in range(3))
    product = fresh(initial_state, spans.number, channels, order, order)
    _run(_forward, spans, channels, order, gated, a, x, None, None, last, product)
    _run(_backward, spans, channels, order, gated, a, x, h, None, dh, None, None, None, first, *chunked.places)
    run_scan(first, product.mT, dfinal, handed_on, dinitial, None, spans=chunked.relay, **(_PLAIN | {"REVERSE": True}))
    tensors = (a, x, h, initial_state, dh, chunked.ends(dfinal, handed_on), da, dx, last)
    _run(_backward, spans, channels, order, gated, *tensors, *chunked.places)
    return da, dx, dinitial
