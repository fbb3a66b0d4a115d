"""Outputs of all chunks at once in Triton, and their gradients; equations and letters as in `_triton_chunks`."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import fresh, launch, span
from seqmix.kernels._triton_chunks import RUNTIME, Layout, between, constants, dot, program, running, steps_of, to_end


@triton.jit(do_not_specialize=RUNTIME)
def _output(
    p_q, p_k, p_v, p_g, p_scores, p_borders, p_o, p_scores_more, p_v_more,
    p_offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    i_c, i_h, i_block = program(heads, tl.cdiv(values, BV))
    o_step, o_row, mask_t = steps_of(i_c, i_h, heads, p_offsets, length, chunk, chunks, BT)
    o_v = i_block * BV + tl.arange(0, BV)
    mask_v = mask_t[:, None] & (o_v < values)[None, :]
    causal = o_step[:, None] >= o_step[None, :]
    b_out = tl.zeros((BT, BV), ACC)
    b_pairs = tl.zeros((BT, BT), ACC)
    # What the state before the chunk gives (BT, BV), and the scores (BT, BT) unless they are in memory.
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        o_where = o_row[:, None] * keys + o_k[None, :]
        b_q = tl.load(p_q + o_where, mask=mask_k, other=0.0)  # (BT, BK)
        o_tile = (i_c * heads + i_h) * keys * values + o_k[:, None] * values + o_v[None, :]
        # (BK, BV)
        b_state = tl.load(p_borders + o_tile, mask=(o_k < keys)[:, None] & (o_v < values)[None, :], other=0.0)
        if GATES == 2:
            b_g = tl.load(p_g + o_where, mask=mask_k, other=0.0).to(ACC)  # (BT, BK)
            b_out += dot(b_q.to(ACC) * tl.exp(tl.cumsum(b_g, 0)), b_state, DOT, ACC, PRECISION)  # (BT, BV)
        else:
            b_k = tl.load(
                p_k + o_row[None, :] * keys + o_k[:, None], mask=mask_t[None, :] & (o_k < keys)[:, None], other=0.0
            )  # (BK, BT)
            b_out += dot(b_q, b_state, DOT, ACC, PRECISION)  # (BT, BV)
            b_pairs += dot(b_q, b_k, DOT, ACC, PRECISION)  # (BT, BT)
    # Decays on the way.
    if GATES == 2:
        b_pairs = tl.load(p_scores + o_row[:, None] * BT + o_step[None, :], mask=mask_t[:, None], other=0.0)  # (BT, BT)
    else:
        upto = running(p_g, o_row, mask_t, GATES)
        b_pairs = tl.where(causal, b_pairs * between(upto, causal, ACC), 0.0)
        b_out *= tl.exp(upto.to(ACC))[:, None]
    # What the chunk's own values give.
    b_v = tl.load(p_v + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
    b_out += dot(b_pairs, b_v, DOT, ACC, PRECISION)  # (BT, BV)
    if p_scores_more is not None:
        # (BT, BT)
        b_pairs = tl.load(p_scores_more + o_row[:, None] * BT + o_step[None, :], mask=mask_t[:, None], other=0.0)
        b_v = tl.load(p_v_more + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        b_out += dot(b_pairs, b_v, DOT, ACC, PRECISION)  # (BT, BV)
    tl.store(p_o + o_row[:, None] * values + o_v[None, :], b_out.to(p_o.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def _values_backward(
    p_q, p_k, p_do, p_g, p_scores, p_dstates, p_dv, p_scores_more, p_do_more,
    p_offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # dv_j = sum_t D_tj (q_t . k_j) do_t + e^{G_end - G_j} dS^T k_j; without `p_dstates` the first sum alone.
    i_c, i_h, i_block = program(heads, tl.cdiv(values, BV))
    first, last = span(i_c, p_offsets, length, chunk, chunks)
    o_step = tl.arange(0, BT)
    o_t = first + o_step
    mask_t = o_t < last
    o_row = o_t * heads + i_h
    o_v = i_block * BV + tl.arange(0, BV)
    mask_v = mask_t[:, None] & (o_v < values)[None, :]
    causal = o_step[:, None] >= o_step[None, :]
    b_out = tl.zeros((BT, BV), ACC)
    b_pairs = tl.zeros((BT, BT), ACC)
    # Scores (BT, BT), and what the keys hand to the state after the chunk (BT, BV).
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        o_where = o_row[:, None] * keys + o_k[None, :]
        b_k = tl.load(p_k + o_where, mask=mask_k, other=0.0)  # (BT, BK)
        if GATES < 2:
            b_q = tl.load(p_q + o_where, mask=mask_k, other=0.0)  # (BT, BK)
            b_pairs += dot(b_q, tl.trans(b_k), DOT, ACC, PRECISION)  # (BT, BT)
        if p_dstates is not None:
            o_tile = (i_c * heads + i_h) * keys * values + o_k[:, None] * values + o_v[None, :]
            # (BK, BV)
            b_state = tl.load(p_dstates + o_tile, mask=(o_k < keys)[:, None] & (o_v < values)[None, :], other=0.0)
            if GATES == 2:
                mask_l = (o_t + 1 < last)[:, None] & (o_k < keys)[None, :]
                b_k_e = b_k.to(ACC) * tl.exp(to_end(p_g, o_where, heads * keys, mask_l, 0, ACC))
                b_out += dot(b_k_e, b_state, DOT, ACC, PRECISION)  # (BT, BV)
            else:
                b_out += dot(b_k, b_state, DOT, ACC, PRECISION)  # (BT, BV)
    if GATES == 2:
        b_pairs = tl.load(p_scores + o_row[:, None] * BT + o_step[None, :], mask=mask_t[:, None], other=0.0)  # (BT, BT)
    else:
        b_pairs = tl.where(causal, b_pairs * between(running(p_g, o_row, mask_t, GATES), causal, ACC), 0.0)
    if GATES == 1 and p_dstates is not None:
        b_out *= tl.exp(to_end(p_g, o_row, heads, o_t + 1 < last, 0, ACC))[:, None]
    # The outputs of the chunk, back through the scores.
    b_do = tl.load(p_do + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
    b_out += dot(tl.trans(b_pairs), b_do, DOT, ACC, PRECISION)  # (BT, BV)
    if p_scores_more is not None:
        # (BT, BT)
        b_pairs = tl.load(p_scores_more + o_row[:, None] * BT + o_step[None, :], mask=mask_t[:, None], other=0.0)
        b_do = tl.load(p_do_more + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        b_out += dot(tl.trans(b_pairs), b_do, DOT, ACC, PRECISION)  # (BT, BV)
    tl.store(p_dv + o_row[:, None] * values + o_v[None, :], b_out.to(p_dv.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def _queries_keys_backward(
    p_q, p_k, p_v, p_g, p_do, p_borders, p_dstates, p_dq, p_dk, p_dg, p_dw, p_du, rows,
    p_offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # With P_tj = D_tj (q_t . k_j) (do_t . v_j), the gradient of log decay t is the sum of all that crosses from before
    # step t to t or later: of P over rows from t on and columns before t, and of what S gives and S_end receives.
    # Nothing is subtracted. With `p_dw`, also dw_t = -S du_t, for writes that were reduced by S^T w_t.
    blocks = tl.cdiv(keys, BK)
    i_c, i_h, i_block = program(heads, blocks)
    first, last = span(i_c, p_offsets, length, chunk, chunks)
    o_step = tl.arange(0, BT)
    o_t = first + o_step
    mask_t = o_t < last
    o_row = o_t * heads + i_h
    o_k = i_block * BK + tl.arange(0, BK)
    mask_k = mask_t[:, None] & (o_k < keys)[None, :]
    o_where = o_row[:, None] * keys + o_k[None, :]
    causal = o_step[:, None] >= o_step[None, :]
    b_pairs = tl.zeros((BT, BT), ACC)
    b_dq = tl.zeros((BT, BK), ACC)
    b_dk = tl.zeros((BT, BK), ACC)
    b_dw = tl.zeros((BT, BK), ACC)
    through = tl.zeros((BK,), ACC)
    # do v^T (BT, BT), and what comes through the states before and after (BT, BK).
    for start in range(0, values, BV):
        o_v = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        mask_s = (o_k < keys)[:, None] & (o_v < values)[None, :]
        o_tile = (i_c * heads + i_h) * keys * values + o_k[:, None] * values + o_v[None, :]
        b_v = tl.load(p_v + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        b_do = tl.load(p_do + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        b_state = tl.load(p_borders + o_tile, mask=mask_s, other=0.0)  # (BK, BV)
        b_dstate = tl.load(p_dstates + o_tile, mask=mask_s, other=0.0)  # (BK, BV)
        b_pairs += dot(b_do, tl.trans(b_v), DOT, ACC, PRECISION)  # (BT, BT)
        b_dq += dot(b_do, tl.trans(b_state), DOT, ACC, PRECISION)  # (BT, BK)
        b_dk += dot(b_v, tl.trans(b_dstate), DOT, ACC, PRECISION)  # (BT, BK)
        if GATES == 1:
            through += tl.sum(b_state * b_dstate, 1)
        if p_dw is not None:
            b_du = tl.load(p_du + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
            b_dw -= dot(b_du, tl.trans(b_state), DOT, ACC, PRECISION)  # (BT, BK)
    # Decays, and the gradient of their logarithms.
    b_q = tl.load(p_q + o_where, mask=mask_k, other=0.0)  # (BT, BK)
    b_k = tl.load(p_k + o_where, mask=mask_k, other=0.0)  # (BT, BK)
    if GATES == 1:
        upto = running(p_g, o_row, mask_t, GATES)
        b_pairs = b_pairs * between(upto, causal, ACC)
        b_dq *= tl.exp(upto.to(ACC))[:, None]
        b_dk *= tl.exp(to_end(p_g, o_row, heads, o_t + 1 < last, 0, ACC))[:, None]
        crossing = crossing_sums(b_pairs * dot(b_q, tl.trans(b_k), DOT, ACC, PRECISION), o_step)  # (BT, BT)
        given = tl.sum(b_q.to(ACC) * b_dq, 1)
        received = tl.sum(b_k.to(ACC) * b_dk, 1)
        crossing += tl.sum(tl.where(causal, given[:, None], 0.0), 0)
        crossing += tl.sum(tl.where(causal & (o_step[:, None] > o_step[None, :]), received[None, :], 0.0), 1)
        total = tl.sum(tl.load(p_g + o_row, mask=mask_t, other=0.0).to(ACC), 0)  # (BT,)
        crossing += tl.exp(total) * tl.sum(through, 0)
        tl.store(p_dg + (i_block.to(tl.int64) * rows + o_t) * heads + i_h, crossing, mask=mask_t)
    else:
        b_pairs = tl.where(causal, b_pairs, 0.0)
    # Within the chunk.
    b_dq += dot(b_pairs, b_k, DOT, ACC, PRECISION)  # (BT, BK)
    b_dk += dot(tl.trans(b_pairs), b_q, DOT, ACC, PRECISION)  # (BT, BK)
    tl.store(p_dq + o_where, b_dq.to(p_dq.dtype.element_ty), mask=mask_k)
    tl.store(p_dk + o_where, b_dk.to(p_dk.dtype.element_ty), mask=mask_k)
    if p_dw is not None:
        tl.store(p_dw + o_where, b_dw.to(p_dw.dtype.element_ty), mask=mask_k)


@triton.jit
def crossing_sums(b_pairs, o_step):
    """For each t the sum of pairs (BT, BT) over rows from t on and columns before t."""
    before = tl.cumsum(b_pairs, 1) - b_pairs
    return tl.sum(tl.where(o_step[:, None] >= o_step[None, :], before, 0.0), 0)


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
