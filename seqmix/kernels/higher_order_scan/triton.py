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
    a, x, initial, h, final, product, offsets, length, chunk, chunks, channels,
    M: tl.constexpr, GATED: tl.constexpr, STEPS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Without h only `final` and `product`, the lags and the map of lags at the end of the span, are wanted.
    kind: tl.constexpr = final.dtype.element_ty
    SLOTS: tl.constexpr = M + 1 if GATED else M
    groups = tl.cdiv(channels, BN)
    item = (tl.program_id(0) // groups).to(tl.int64)
    n = (tl.program_id(0) % groups) * BN + tl.arange(0, BN)
    first, last = span(item, offsets, length, chunk, chunks)
    mask_n = n < channels
    state = (item * channels + n) * M
    # The lags before the span, m planes (BN,), and the map of lags.
    lags = ()
    runs = ()
    for i in tl.static_range(M):
        if initial is None:
            lags = lags + (tl.zeros((BN,), kind),)
        else:
            lags = lags + (tl.load(initial + state + i, mask=mask_n, other=0.0),)
        if product is not None:
            for j in tl.static_range(M):
                runs = runs + (tl.full((BN,), 1.0 if i == j else 0.0, kind),)
    for start in tl.range(first, last, STEPS):
        # Loads of several steps at once.
        gates = ()
        values = ()
        for u in tl.static_range(STEPS):
            mask = mask_n & (0 * n + start + u < last)
            at = (start + u) * channels + n
            for k in tl.static_range(SLOTS):
                gates = gates + (tl.load(a + at * SLOTS + k, mask=mask, other=0.0).to(kind),)
            values = values + (tl.load(x + at, mask=mask, other=0.0).to(kind),)
        # The steps, one by one.
        for u in tl.static_range(STEPS):
            over = 0 * n + start + u >= last
            g = gates[u * SLOTS : (u + 1) * SLOTS]
            value = values[u]
            if GATED:
                g = _softmax(g, SLOTS)
                value *= g[M]
            for i in tl.static_range(M):
                value += g[i] * lags[i]
            lags = _push(value, lags, over, M)
            if h is not None:
                tl.store(h + (start + u) * channels + n, value.to(h.dtype.element_ty), mask=mask_n & (over == 0))
            if product is not None:
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
        tl.store(final + state + i, lags[i], mask=mask_n)
        if product is not None:
            for j in tl.static_range(M):
                tl.store(product + (state + i) * M + j, runs[j * M + i], mask=mask_n)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    a, x, h, initial, dh, dfinal, da, dx, dinitial, of, bounds, offsets, length, chunk, chunks, channels,
    M: tl.constexpr, GATED: tl.constexpr, STEPS: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # carry[i] is the adjoint of lag i + 1: s_t = dh_t + carry[0], then carry[i] = carry[i + 1] + a_i s_t. Values
    # before a sequence are in `initial` (S, N, m). Without dx only `dinitial`, what a span hands on, is wanted.
    kind: tl.constexpr = dinitial.dtype.element_ty
    SLOTS: tl.constexpr = M + 1 if GATED else M
    groups = tl.cdiv(channels, BN)
    item = (tl.program_id(0) // groups).to(tl.int64)
    n = (tl.program_id(0) % groups) * BN + tl.arange(0, BN)
    first, last = span(item, offsets, length, chunk, chunks)
    s, begin, _ = sequence_of(item, of, bounds, length, chunks)
    mask_n = n < channels
    state = (item * channels + n) * M
    # What comes into the span, m planes (BN,).
    carry = ()
    for i in tl.static_range(M):
        if dfinal is None:
            carry = carry + (tl.zeros((BN,), kind),)
        else:
            carry = carry + (tl.load(dfinal + state + i, mask=mask_n, other=0.0),)
    for start in tl.range(first, last, STEPS):
        newest = first + last - 1 - start
        # Loads of several steps at once.
        gates = ()
        values = ()
        upstream = ()
        for u in tl.static_range(STEPS):
            mask = mask_n & (0 * n + newest - u >= first)
            at = (newest - u) * channels + n
            for k in tl.static_range(SLOTS):
                gates = gates + (tl.load(a + at * SLOTS + k, mask=mask, other=0.0).to(kind),)
            upstream = upstream + (tl.load(dh + at, mask=mask, other=0.0).to(kind),)
            if GATED and dx is not None:
                values = values + (tl.load(x + at, mask=mask, other=0.0).to(kind),)
        # past[k] is h at `newest - 1 - k`.
        past = ()
        if dx is not None:
            for k in tl.static_range(STEPS + M - 1):
                row = 0 * n + newest - 1 - k
                value = tl.load(h + row * channels + n, mask=mask_n & (row >= begin), other=0.0).to(kind)
                place = (s * channels + n) * M + begin - 1 - row
                older = tl.load(initial + place, mask=mask_n & (row < begin) & (row >= begin - M), other=0.0)
                past = past + (tl.where(row >= begin, value, older),)
        # The steps, back in time: the adjoint, then the gradients.
        for u in tl.static_range(STEPS):
            inside = 0 * n + newest - u >= first
            mask = mask_n & inside
            at = (newest - u) * channels + n
            g = gates[u * SLOTS : (u + 1) * SLOTS]
            if GATED:
                g = _softmax(g, SLOTS)
            adjoint = upstream[u] + carry[0]
            following = ()
            for i in tl.static_range(M - 1):
                following = following + (tl.where(inside, carry[i + 1] + g[i] * adjoint, carry[i]),)
            carry = following + (tl.where(inside, g[M - 1] * adjoint, carry[M - 1]),)
            if dx is not None:
                if GATED:
                    # h_t again from the same rounded values that it is subtracted from, so that errors cancel.
                    now = g[M] * values[u]
                    for i in tl.static_range(M):
                        now += g[i] * past[u + i]
                    flow = adjoint * g[M]
                    d = flow * (values[u] - now)
                    tl.store(da + at * SLOTS + M, d.to(da.dtype.element_ty), mask=mask)
                    tl.store(dx + at, flow.to(dx.dtype.element_ty), mask=mask)
                else:
                    tl.store(dx + at, adjoint.to(dx.dtype.element_ty), mask=mask)
                for i in tl.static_range(M):
                    if GATED:
                        d = adjoint * g[i] * (past[u + i] - now)
                    else:
                        d = adjoint * past[u + i]
                    tl.store(da + at * SLOTS + i, d.to(da.dtype.element_ty), mask=mask)
    for i in tl.static_range(M):
        tl.store(dinitial + state + i, carry[i], mask=mask_n)


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
    dh: Tensor,
    dfinal: Tensor,
    a: Tensor,
    x: Tensor,
    h: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor]:
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
