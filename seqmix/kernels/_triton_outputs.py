"""Outputs of all chunks at once in Triton, and their gradients; equations and letters as in `_triton_chunks`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import fresh, launch, span
from seqmix.kernels._triton_chunks import RUNTIME, Layout, between, constants, dot, program, running, to_end


@triton.jit(do_not_specialize=RUNTIME)
def _output(
    q, k, v, g, scores, borders, o, scores_more, v_more, offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c, h, block = program(heads, tl.cdiv(values, BV))
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    t = first + step
    mask_t = t < last
    row = t * heads + h
    j = block * BV + tl.arange(0, BV)
    mask_v = mask_t[:, None] & (j < values)[None, :]
    causal = step[:, None] >= step[None, :]
    out = tl.zeros((BT, BV), ACC)
    pairs = tl.zeros((BT, BT), ACC)
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        where = row[:, None] * keys + i[None, :]
        q_t = tl.load(q + where, mask=mask_k, other=0.0)
        tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
        state = tl.load(borders + tile, mask=(i < keys)[:, None] & (j < values)[None, :], other=0.0)
        if GATES == 2:
            g_t = tl.load(g + where, mask=mask_k, other=0.0).to(ACC)
            out += dot(q_t.to(ACC) * tl.exp(tl.cumsum(g_t, 0)), state, DOT, ACC, PRECISION)
        else:
            k_t = tl.load(k + row[None, :] * keys + i[:, None], mask=mask_t[None, :] & (i < keys)[:, None], other=0.0)
            out += dot(q_t, state, DOT, ACC, PRECISION)
            pairs += dot(q_t, k_t, DOT, ACC, PRECISION)
    if GATES == 2:
        pairs = tl.load(scores + row[:, None] * BT + step[None, :], mask=mask_t[:, None], other=0.0)
    else:
        upto = running(g, row, mask_t, GATES)
        pairs = tl.where(causal, pairs * between(upto, causal, ACC), 0.0)
        out *= tl.exp(upto.to(ACC))[:, None]
    v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
    out += dot(pairs, v_t, DOT, ACC, PRECISION)
    if scores_more is not None:
        pairs = tl.load(scores_more + row[:, None] * BT + step[None, :], mask=mask_t[:, None], other=0.0)
        v_t = tl.load(v_more + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        out += dot(pairs, v_t, DOT, ACC, PRECISION)
    tl.store(o + row[:, None] * values + j[None, :], out.to(o.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def _values_backward(
    q, k, do, g, scores, dstates, dv, scores_more, do_more, offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # dv_j = sum_t D_tj (q_t . k_j) do_t + e^{G_end - G_j} dS^T k_j; without dstates the first sum alone.
    c, h, block = program(heads, tl.cdiv(values, BV))
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    t = first + step
    mask_t = t < last
    row = t * heads + h
    j = block * BV + tl.arange(0, BV)
    mask_v = mask_t[:, None] & (j < values)[None, :]
    causal = step[:, None] >= step[None, :]
    out = tl.zeros((BT, BV), ACC)
    pairs = tl.zeros((BT, BT), ACC)
    # Scores (BT, BT), and what the keys hand to the state after the chunk (BT, BV).
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        where = row[:, None] * keys + i[None, :]
        k_t = tl.load(k + where, mask=mask_k, other=0.0)
        if GATES < 2:
            q_t = tl.load(q + where, mask=mask_k, other=0.0)
            pairs += dot(q_t, tl.trans(k_t), DOT, ACC, PRECISION)
        if dstates is not None:
            tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
            state = tl.load(dstates + tile, mask=(i < keys)[:, None] & (j < values)[None, :], other=0.0)
            if GATES == 2:
                mask_l = (t + 1 < last)[:, None] & (i < keys)[None, :]
                k_e = k_t.to(ACC) * tl.exp(to_end(g, where, heads * keys, mask_l, 0, ACC))
                out += dot(k_e, state, DOT, ACC, PRECISION)
            else:
                out += dot(k_t, state, DOT, ACC, PRECISION)
    if GATES == 2:
        pairs = tl.load(scores + row[:, None] * BT + step[None, :], mask=mask_t[:, None], other=0.0)
    else:
        pairs = tl.where(causal, pairs * between(running(g, row, mask_t, GATES), causal, ACC), 0.0)
    if GATES == 1 and dstates is not None:
        out *= tl.exp(to_end(g, row, heads, t + 1 < last, 0, ACC))[:, None]
    # The outputs of the chunk, back through the scores.
    do_t = tl.load(do + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
    out += dot(tl.trans(pairs), do_t, DOT, ACC, PRECISION)
    if scores_more is not None:
        pairs = tl.load(scores_more + row[:, None] * BT + step[None, :], mask=mask_t[:, None], other=0.0)
        do_t = tl.load(do_more + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        out += dot(tl.trans(pairs), do_t, DOT, ACC, PRECISION)
    tl.store(dv + row[:, None] * values + j[None, :], out.to(dv.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def _queries_keys_backward(
    q, k, v, g, do, borders, dstates, dq, dk, dg, dw, du, rows, offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # With P_tj = D_tj (q_t . k_j) (do_t . v_j), the gradient of log decay t is the sum of all that crosses from before
    # step t to t or later: of P over rows from t on and columns before t, and of what S gives and S_end receives.
    # Nothing is subtracted. With dw, also dw_t = -S du_t, for writes that were reduced by S^T w_t.
    blocks = tl.cdiv(keys, BK)
    c, h, block = program(heads, blocks)
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    t = first + step
    mask_t = t < last
    row = t * heads + h
    i = block * BK + tl.arange(0, BK)
    mask_k = mask_t[:, None] & (i < keys)[None, :]
    where = row[:, None] * keys + i[None, :]
    causal = step[:, None] >= step[None, :]
    pairs = tl.zeros((BT, BT), ACC)
    dq_t = tl.zeros((BT, BK), ACC)
    dk_t = tl.zeros((BT, BK), ACC)
    dw_t = tl.zeros((BT, BK), ACC)
    through = tl.zeros((BK,), ACC)
    # do v^T (BT, BT), and what comes through the states before and after (BT, BK).
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (j < values)[None, :]
        mask_s = (i < keys)[:, None] & (j < values)[None, :]
        tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
        v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        do_t = tl.load(do + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        state = tl.load(borders + tile, mask=mask_s, other=0.0)
        dstate = tl.load(dstates + tile, mask=mask_s, other=0.0)
        pairs += dot(do_t, tl.trans(v_t), DOT, ACC, PRECISION)
        dq_t += dot(do_t, tl.trans(state), DOT, ACC, PRECISION)
        dk_t += dot(v_t, tl.trans(dstate), DOT, ACC, PRECISION)
        if GATES == 1:
            through += tl.sum(state * dstate, 1)
        if dw is not None:
            du_t = tl.load(du + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
            dw_t -= dot(du_t, tl.trans(state), DOT, ACC, PRECISION)
    # Decays, and the gradient of their logarithms.
    q_t = tl.load(q + where, mask=mask_k, other=0.0)
    k_t = tl.load(k + where, mask=mask_k, other=0.0)
    if GATES == 1:
        upto = running(g, row, mask_t, GATES)
        pairs = pairs * between(upto, causal, ACC)
        dq_t *= tl.exp(upto.to(ACC))[:, None]
        dk_t *= tl.exp(to_end(g, row, heads, t + 1 < last, 0, ACC))[:, None]
        crossing = crossing_sums(pairs * dot(q_t, tl.trans(k_t), DOT, ACC, PRECISION), step)
        given = tl.sum(q_t.to(ACC) * dq_t, 1)
        received = tl.sum(k_t.to(ACC) * dk_t, 1)
        crossing += tl.sum(tl.where(causal, given[:, None], 0.0), 0)
        crossing += tl.sum(tl.where(causal & (step[:, None] > step[None, :]), received[None, :], 0.0), 1)
        total = tl.sum(tl.load(g + row, mask=mask_t, other=0.0).to(ACC), 0)
        crossing += tl.exp(total) * tl.sum(through, 0)
        tl.store(dg + (block.to(tl.int64) * rows + t) * heads + h, crossing, mask=mask_t)
    else:
        pairs = tl.where(causal, pairs, 0.0)
    # Within the chunk.
    dq_t += dot(pairs, k_t, DOT, ACC, PRECISION)
    dk_t += dot(tl.trans(pairs), q_t, DOT, ACC, PRECISION)
    tl.store(dq + where, dq_t.to(dq.dtype.element_ty), mask=mask_k)
    tl.store(dk + where, dk_t.to(dk.dtype.element_ty), mask=mask_k)
    if dw is not None:
        tl.store(dw + where, dw_t.to(dw.dtype.element_ty), mask=mask_k)


@triton.jit
def crossing_sums(pairs, step):
    """For each t the sum of pairs (BT, BT) over rows from t on and columns before t."""
    before = tl.cumsum(pairs, 1) - pairs
    return tl.sum(tl.where(step[:, None] >= step[None, :], before, 0.0), 0)


def output(
    plan: Layout, gates: int, q: Tensor, k: Tensor, v: Tensor, g: Tensor, scores: Tensor | None, borders: Tensor,
    o: Tensor, more: tuple[Tensor | None, Tensor | None] = (None, None),
) -> None:  # fmt: skip
    """Write o (L, H, V); `more` scores (L, H, BT) and the values they weigh are added."""
    programs = plan.chunks.number * plan.heads * plan.value_blocks
    arguments = (q, k, v, g, scores, borders, o, *more, *plan.chunks.arguments, *plan.sizes)
    launch(_output, programs, *arguments, **constants(plan, gates))


def values_backward(
    plan: Layout, gates: int, q: Tensor, k: Tensor, do: Tensor, g: Tensor, scores: Tensor | None,
    dstates: Tensor | None, dv: Tensor, more: tuple[Tensor | None, Tensor | None] = (None, None),
) -> None:  # fmt: skip
    """Write dv (L, H, V); without `dstates` only what reaches it inside a chunk.

    `more` scores (L, H, BT) and the gradients of what they gave are added.
    """
    programs = plan.chunks.number * plan.heads * plan.value_blocks
    arguments = (q, k, do, g, scores, dstates, dv, *more, *plan.chunks.arguments, *plan.sizes)
    launch(_values_backward, programs, *arguments, **constants(plan, gates))


def queries_keys_backward(
    plan: Layout, gates: int, q: Tensor, k: Tensor, v: Tensor, g: Tensor, do: Tensor, borders: Tensor,
    dstates: Tensor, dw: Tensor | None = None, du: Tensor | None = None, exact: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk and dlog_g, not for GATES 2; dw too where it is given. `exact`: dk and dlog_g in the type of the state."""
    rows = q.shape[0] * q.shape[1]
    dq, dk = fresh(q), torch.empty_like(k, dtype=borders.dtype) if exact else fresh(k)
    parts = fresh(borders, plan.key_blocks, *g.shape)
    arguments = (q, k, v, g, do, borders, dstates, dq, dk, parts, dw, du, rows, *plan.chunks.arguments, *plan.sizes)
    launch(_queries_keys_backward, plan.chunks.number * plan.heads * plan.key_blocks, *arguments,
           **constants(plan, gates))  # fmt: skip
    dg = parts.sum(0)
    return dq, dk, dg if exact else dg.to(g.dtype)
