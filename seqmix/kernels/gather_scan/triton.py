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
    p_x, p_d, p_index, p_initial, p_h, p_final, p_factor, p_target, p_offsets, length, chunk, chunks, states,
    COMPLEX: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Without `p_h` only `p_final` and the map of the span are wanted: `p_target`, where a state ends, and by which
    # `p_factor`.
    kind: tl.constexpr = p_final.dtype.element_ty
    i_span = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    mask = o_n < states
    o_at = i_span * states + o_n
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    b_carry = tl.zeros((BN,), kind)
    b_carry_im = tl.zeros((BN,), kind)
    if p_initial is not None:
        b_carry, b_carry_im = load(p_initial, o_at, mask, kind, COMPLEX)  # (BN,)
    b_product = tl.full((BN,), 1.0, kind)
    b_product_im = tl.zeros((BN,), kind)
    b_place = o_n
    for t in range(first, last):
        o_here = t * states + o_n
        b_to = tl.load(p_index + o_here, mask=mask, other=-1)  # (BN,)
        b_d, b_d_im = load(p_d, o_here, mask, kind, COMPLEX)  # (BN,)
        b_x, b_x_im = load(p_x, o_here, mask, kind, COMPLEX)  # (BN,)
        moved, moved_im = times(b_d, b_d_im, b_carry, b_carry_im, COMPLEX)
        moved, moved_im = _sum_into(b_to[None, :] == o_n[:, None], moved, moved_im, COMPLEX)
        b_carry, b_carry_im = moved + b_x, moved_im + b_x_im
        if p_h is None:
            # What this step does to the place that a state has come to; one that has gone stays away.
            hits = b_place[:, None] == o_n[None, :]
            b_d, b_d_im = _sum_into(hits, b_d, b_d_im, COMPLEX)
            b_product, b_product_im = times(b_product, b_product_im, b_d, b_d_im, COMPLEX)
            found = tl.max(tl.where(hits, b_to[None, :], -1), 1)
            b_place = tl.where((found >= 0) & (found < states), found, -1)
        else:
            store(p_h, o_here, mask, b_carry, b_carry_im, COMPLEX)
    store(p_final, o_at, mask, b_carry, b_carry_im, COMPLEX)
    if p_target is not None:
        store(p_factor, o_at, mask, b_product, b_product_im, COMPLEX)
        tl.store(p_target + o_at, b_place, mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    p_dh, p_d, p_index, p_h, p_initial, p_dfinal, p_dd, p_dx, p_dinitial, p_factor, p_target,
    p_offsets, length, chunk, chunks, states,
    COMPLEX: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # s_t = dh_t + u_t, and u_{t-1}[n] = conj(d_t[n]) s_t[index_t[n]] flows on. Without `p_dx` only what leaves the
    # span, `p_dinitial`, and its map are wanted; with `p_dx` and without `p_dd` the adjoints alone.
    kind: tl.constexpr = p_dinitial.dtype.element_ty
    i_span = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    mask = o_n < states
    o_at = i_span * states + o_n
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    # What comes into the span (BN,), the factors of its map and where that sends every state.
    b_carry = tl.zeros((BN,), kind)
    b_carry_im = tl.zeros((BN,), kind)
    if p_dfinal is not None:
        b_carry, b_carry_im = load(p_dfinal, o_at, mask, kind, COMPLEX)  # (BN,)
    b_product = tl.full((BN,), 1.0, kind)
    b_product_im = tl.zeros((BN,), kind)
    b_place = o_n
    for i in range(last - first):
        t = last - 1 - i
        o_here = t * states + o_n
        # A step: its adjoint, and what flows on.
        b_to = tl.load(p_index + o_here, mask=mask, other=-1)  # (BN,)
        b_d, b_d_im = load(p_d, o_here, mask, kind, COMPLEX)  # (BN,)
        b_s, b_s_im = load(p_dh, o_here, mask, kind, COMPLEX)  # (BN,)
        b_s, b_s_im = b_s + b_carry, b_s_im + b_carry_im
        hits = b_to[:, None] == o_n[None, :]
        b_g, b_g_im = _sum_into(hits, b_s, b_s_im, COMPLEX)
        b_carry, b_carry_im = times(b_d, -b_d_im, b_g, b_g_im, COMPLEX)
        if p_dx is None:
            # The step comes before those seen: it sends n to `b_to`, and they send that on.
            rest, rest_im = _sum_into(hits, b_product, b_product_im, COMPLEX)
            b_product, b_product_im = times(b_d, b_d_im, rest, rest_im, COMPLEX)
            b_place = tl.max(tl.where(hits, b_place[None, :], -1), 1)
        else:
            store(p_dx, o_here, mask, b_s, b_s_im, COMPLEX)
        if p_dd is not None:
            later = t + 0 * o_n > first  # a row, as masks are
            b_before, b_before_im = load(p_h, o_here - states, mask & later, kind, COMPLEX)  # (BN,)
            b_start, b_start_im = load(p_initial, o_at, mask & ~later, kind, COMPLEX)  # (BN,)
            ddecay, ddecay_im = times(b_before + b_start, -(b_before_im + b_start_im), b_g, b_g_im, COMPLEX)
            store(p_dd, o_here, mask, ddecay, ddecay_im, COMPLEX)
    store(p_dinitial, o_at, mask, b_carry, b_carry_im, COMPLEX)
    if p_target is not None:
        store(p_factor, o_at, mask, b_product, b_product_im, COMPLEX)
        tl.store(p_target + o_at, b_place, mask=mask)


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
    dh: Tensor, dfinal: Tensor, index: Tensor, d: Tensor, h: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
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
