"""Triton kernels for the gather recurrence: a program walks one span, all states in registers.

What goes to a place is summed over a row of a comparison of every index with every state: N^2 additions a step, which
cost less than memory that threads would share, and whose order is fixed. Where spans are chunks, a first pass keeps the
last state of each from zero, and where it sends every state and by which factor; the same kernels scan those, and the
second pass starts every chunk from its true state. An index out of range meets no state. Letters: C spans, N states.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import RUNTIME, Spans, chunk_length, cut, fresh, launch, span, whole_sequences
from seqmix.kernels.diagonal_scan.tiles import load, store, times

OP = "gather_scan"


@triton.jit
def _sum_into(hits, value, value_im, COMPLEX: tl.constexpr):
    """Sums (BN,) of `value` (BN,) over the columns that each row of `hits` (BN, BN) marks."""
    total = tl.sum(tl.where(hits, value[None, :], 0.0), 1)
    total_im = total
    if COMPLEX:
        total_im = tl.sum(tl.where(hits, value_im[None, :], 0.0), 1)
    return total, total_im


@triton.jit(do_not_specialize=RUNTIME)
def _forward(
    x, d, index, initial, h, final, factor, target, offsets, length, chunk, chunks, states,
    COMPLEX: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Without h only `final` and the map of the span are wanted: `target`, where a state ends, and by which `factor`.
    kind: tl.constexpr = final.dtype.element_ty
    item = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BN)
    mask = n < states
    at = item * states + n
    first, last = span(item, offsets, length, chunk, chunks)
    carry = tl.zeros((BN,), kind)
    carry_im = tl.zeros((BN,), kind)
    if initial is not None:
        carry, carry_im = load(initial, at, mask, kind, COMPLEX)
    product = tl.full((BN,), 1.0, kind)
    product_im = tl.zeros((BN,), kind)
    place = n
    for t in range(first, last):
        here = t * states + n
        to = tl.load(index + here, mask=mask, other=-1)
        d_t, d_im = load(d, here, mask, kind, COMPLEX)
        x_t, x_im = load(x, here, mask, kind, COMPLEX)
        moved, moved_im = times(d_t, d_im, carry, carry_im, COMPLEX)
        moved, moved_im = _sum_into(to[None, :] == n[:, None], moved, moved_im, COMPLEX)
        carry, carry_im = moved + x_t, moved_im + x_im
        if h is None:
            # What this step does to the place that a state has come to; one that has gone stays away.
            hits = place[:, None] == n[None, :]
            d_t, d_im = _sum_into(hits, d_t, d_im, COMPLEX)
            product, product_im = times(product, product_im, d_t, d_im, COMPLEX)
            found = tl.max(tl.where(hits, to[None, :], -1), 1)
            place = tl.where((found >= 0) & (found < states), found, -1)
        else:
            store(h, here, mask, carry, carry_im, COMPLEX)
    store(final, at, mask, carry, carry_im, COMPLEX)
    if target is not None:
        store(factor, at, mask, product, product_im, COMPLEX)
        tl.store(target + at, place, mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    dh, d, index, h, initial, dfinal, dd, dx, dinitial, factor, target, offsets, length, chunk, chunks, states,
    COMPLEX: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # s_t = dh_t + u_t, and u_{t-1}[n] = conj(d_t[n]) s_t[index_t[n]] flows on. Without dx only what leaves the span,
    # `dinitial`, and its map are wanted; with dx and without dd the adjoints alone.
    kind: tl.constexpr = dinitial.dtype.element_ty
    item = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BN)
    mask = n < states
    at = item * states + n
    first, last = span(item, offsets, length, chunk, chunks)
    carry = tl.zeros((BN,), kind)
    carry_im = tl.zeros((BN,), kind)
    if dfinal is not None:
        carry, carry_im = load(dfinal, at, mask, kind, COMPLEX)
    product = tl.full((BN,), 1.0, kind)
    product_im = tl.zeros((BN,), kind)
    place = n
    for i in range(last - first):
        t = last - 1 - i
        here = t * states + n
        to = tl.load(index + here, mask=mask, other=-1)
        d_t, d_im = load(d, here, mask, kind, COMPLEX)
        s, s_im = load(dh, here, mask, kind, COMPLEX)
        s, s_im = s + carry, s_im + carry_im
        hits = to[:, None] == n[None, :]
        g, g_im = _sum_into(hits, s, s_im, COMPLEX)
        carry, carry_im = times(d_t, -d_im, g, g_im, COMPLEX)
        if dx is None:
            # The step comes before those seen: it sends n to `to`, and they send that on.
            rest, rest_im = _sum_into(hits, product, product_im, COMPLEX)
            product, product_im = times(d_t, d_im, rest, rest_im, COMPLEX)
            place = tl.max(tl.where(hits, place[None, :], -1), 1)
        else:
            store(dx, here, mask, s, s_im, COMPLEX)
        if dd is not None:
            later = t + 0 * n > first  # a row, as masks are
            before, before_im = load(h, here - states, mask & later, kind, COMPLEX)
            start, start_im = load(initial, at, mask & ~later, kind, COMPLEX)
            ddecay, ddecay_im = times(before + start, -(before_im + start_im), g, g_im, COMPLEX)
            store(dd, here, mask, ddecay, ddecay_im, COMPLEX)
    store(dinitial, at, mask, carry, carry_im, COMPLEX)
    if target is not None:
        store(factor, at, mask, product, product_im, COMPLEX)
        tl.store(target + at, place, mask=mask)


def _real(tensor: Tensor | None) -> Tensor | None:
    """Contiguous, with complex numbers as pairs of real ones."""
    if tensor is None:
        return None
    tensor = tensor.detach().contiguous()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _run(kernel, spans: Spans, x: Tensor, *tensors: Tensor | None) -> None:
    states = x.shape[-1]
    width = triton.next_power_of_2(states)
    launch(
        kernel,
        spans.number,
        *map(_real, (x, *tensors)),
        *spans.arguments,
        states,
        COMPLEX=x.is_complex(),
        BN=width,
        num_warps=min(16, max(1, width * width // 1024)),  # 32 comparisons for each thread
        enable_fp_fusion=False,
    )


def _map(like: Tensor, spans: Spans) -> tuple[Tensor, Tensor, Tensor]:
    """Room for what leaves every span, the factors of its map, and where that sends every state: (C, N) each."""
    shape = (spans.number, like.shape[-1])
    return fresh(like, *shape), fresh(like, *shape), torch.empty(shape, dtype=torch.int32, device=like.device)


def forward(
    index: Tensor, d: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h (B, T, N) in the type of x and the final state (S, N)."""
    sequences = whole_sequences(OP, x, cu_seqlens)
    h, final = fresh(x), fresh(initial_state)
    chunk = chunk_length(sequences.number, sequences.length)
    if chunk is None:
        _run(_forward, sequences, x, d, index, initial_state, h, final, None, None)
        return h, final
    chunked = cut(sequences, chunk)
    last, factor, target = _map(initial_state, chunked.spans)
    _run(_forward, chunked.spans, x, d, index, None, None, last, factor, target)
    after = fresh(last)
    _run(_forward, chunked.relay, last, factor, target, initial_state, after, final, None, None)
    _run(_forward, chunked.spans, x, d, index, chunked.starts(initial_state, after), h, last, None, None)
    return h, final


def backward(
    dh: Tensor,
    dfinal: Tensor,
    index: Tensor,
    d: Tensor,
    h: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of d, x and the initial state."""
    sequences = whole_sequences(OP, h, cu_seqlens)
    dd, dx, dinitial = fresh(d), fresh(h), fresh(initial_state)
    chunk = chunk_length(sequences.number, sequences.length)
    if chunk is None:
        _run(_backward, sequences, dh, d, index, h, initial_state, dfinal, dd, dx, dinitial, None, None)
        return dd, dx, dinitial
    chunked = cut(sequences, chunk)
    outgoing, factor, target = _map(initial_state, chunked.spans)
    _run(_backward, chunked.spans, dh, d, index, None, None, None, None, None, outgoing, factor, target)
    # The relay's steps are chunks; what they add is what the chunk after each hands on.
    incoming, added = fresh(outgoing), chunked.ends(torch.zeros_like(dfinal), outgoing)
    _run(_backward, chunked.relay, added, factor, target, None, None, dfinal, None, incoming, dinitial, None, None)
    before = chunked.states(h, initial_state)
    _run(_backward, chunked.spans, dh, d, index, h, before, incoming, dd, dx, outgoing, None, None)
    starts = slice(None, None, chunked.spans.chunks) if chunked.first is None else chunked.first
    return dd, dx, outgoing[starts].contiguous()
