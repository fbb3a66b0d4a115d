"""Triton kernels for what the generalised delta rule adds to linear attention: what b reads, and its gradients.

With r_t = S_{t-1}^T b_t the op is linear attention with two keys a step, k_t with value v_t and a_t with value r_t. In
a chunk that starts from S, with c_t the sum of log decays of each key up to t and A_xy[t, j] = sum over keys of
x_t e^{c_{t-1} - c_j} y_j for j < t, all r solve a triangular system:

    r = M (b e^{c_{t-1}}) S + M A_bk v,    M = (I - A_ba)^-1.

M is found row by row in `SOLVE` and multiplied in `TIMES`, as for the delta rule. `A` comes in as the scores of
queries b_{t+1} with keys at t (`_triton_keys`): its row t is row t - 1 of those. Nothing is divided by, so that any
decay is exact. Letters as in `_triton_chunks`; a tile of a state that is walked holds all of its keys.
"""

import triton
import triton.language as tl

from seqmix.kernels._triton import span
from seqmix.kernels._triton_chunks import RUNTIME, dot, program, steps_of, to_end


@triton.jit(do_not_specialize=RUNTIME)
def prepare(
    p_b, p_v, p_g, p_scores_ba, p_scores_bk, p_inverse, p_w, p_u, p_offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, SOLVE: tl.constexpr, TIMES: tl.constexpr,
):  # fmt: skip
    """M (BT, BT), w = M (b e^c) and u = M A_bk v of every chunk."""
    i_c, i_h, _ = program(heads, 1)
    o_step, o_row, mask_t = steps_of(i_c, i_h, heads, p_offsets, length, chunk, chunks, BT)
    o_before = o_row - heads
    mask_b = mask_t & (o_step > 0)
    # A_ba transposed: row t of A_ba is then a column, which weighs the rows of M.
    # (BT, BT)
    b_lower = tl.load(p_scores_ba + o_before[None, :] * BT + o_step[:, None], mask=mask_b[None, :], other=0.0).to(SOLVE)
    # M, row by row.
    b_solved = tl.where(o_step[:, None] == o_step[None, :], 1.0, 0.0).to(SOLVE)
    for t in range(1, BT):
        weights = tl.sum(tl.where(o_step[None, :] == t, b_lower, 0.0), 1)
        added = tl.sum(weights[:, None] * b_solved, 0)
        b_solved += tl.where(o_step[:, None] == t, added[None, :], 0.0)
    tl.store(p_inverse + o_row[:, None] * BT + o_step[None, :], b_solved, mask=mask_t[:, None])
    # w and u.
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        b_g = tl.load(
            p_g + o_before[:, None] * keys + o_k[None, :], mask=mask_b[:, None] & (o_k < keys)[None, :], other=0.0
        )  # (BT, BK)
        b_b = tl.load(p_b + o_row[:, None] * keys + o_k[None, :], mask=mask_k, other=0.0).to(ACC)  # (BT, BK)
        b_b *= tl.exp(tl.cumsum(b_g.to(ACC), 0))
        b_w = dot(b_solved, b_b, TIMES, SOLVE, PRECISION)  # (BT, BK)
        tl.store(p_w + o_row[:, None] * keys + o_k[None, :], b_w.to(p_w.dtype.element_ty), mask=mask_k)
    # (BT, BT)
    b_pairs = tl.load(p_scores_bk + o_before[:, None] * BT + o_step[None, :], mask=mask_b[:, None], other=0.0)
    b_pairs = dot(b_solved, b_pairs, SOLVE, SOLVE, PRECISION)  # (BT, BT)
    for start in range(0, values, BV):
        o_v = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        b_v = tl.load(p_v + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        b_u = dot(b_pairs, b_v, TIMES, SOLVE, PRECISION)  # (BT, BV)
        tl.store(p_u + o_row[:, None] * values + o_v[None, :], b_u.to(p_u.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def states(
    p_k, p_v, p_a, p_w, p_u, p_g, p_initial, p_borders, p_final, p_offsets, length, chunk, chunks,
    p_relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The states before chunks, chunk after chunk; u comes in as M A_bk v and goes out as what b reads."""
    i_s, i_h, i_block = program(heads, tl.cdiv(values, BV))
    o_k = tl.arange(0, BK)
    o_v = i_block * BV + tl.arange(0, BV)
    mask_s = (o_k < keys)[:, None] & (o_v < values)[None, :]
    o_tile = o_k[:, None] * values + o_v[None, :]
    o_step = tl.arange(0, BT)
    # (BK, BV)
    b_state = tl.load(p_initial + (i_s * heads + i_h) * keys * values + o_tile, mask=mask_s, other=0.0).to(ACC)
    begin, end = span(i_s, p_relay_offsets, relay_length, relay_chunk, relay_chunks)
    for n in range(0, end - begin):
        i_c = begin + n
        first, last = span(i_c, p_offsets, length, chunk, chunks)
        tl.store(p_borders + (i_c * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)
        o_t = first + o_step
        mask_t = o_t < last
        o_row = o_t * heads + i_h
        o_here = o_row[:, None] * values + o_v[None, :]
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        o_where = o_row[None, :] * keys + o_k[:, None]
        mask_k = mask_t[None, :] & (o_k < keys)[:, None]
        b_w = tl.load(
            p_w + o_row[:, None] * keys + o_k[None, :], mask=mask_t[:, None] & (o_k < keys)[None, :], other=0.0
        )  # (BT, BK)
        b_u = tl.load(p_u + o_here, mask=mask_v, other=0.0).to(ACC) + dot(b_w, b_state, DOT, ACC, PRECISION)  # (BT, BV)
        tl.store(p_u + o_here, b_u.to(p_u.dtype.element_ty), mask=mask_v)
        # Keys (BK, BT) as they are at the end of the chunk.
        b_left = tl.exp(to_end(p_g, o_where, heads * keys, (o_t + 1 < last)[None, :] & (o_k < keys)[:, None], 1, ACC))
        b_k = tl.load(p_k + o_where, mask=mask_k, other=0.0).to(ACC) * b_left  # (BK, BT)
        b_a = tl.load(p_a + o_where, mask=mask_k, other=0.0).to(ACC) * b_left  # (BK, BT)
        b_state *= tl.exp(tl.sum(tl.load(p_g + o_where, mask=mask_k, other=0.0).to(ACC), 1))[:, None]  # (BK, BT)
        b_v = tl.load(p_v + o_here, mask=mask_v, other=0.0)  # (BT, BV)
        b_state += dot(b_k, b_v, DOT, ACC, PRECISION) + dot(b_a, b_u, DOT, ACC, PRECISION)  # (BK, BV)
    tl.store(p_final + (i_s * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def states_backward(
    p_q, p_a, p_w, p_g, p_do, p_du, p_dfinal, p_dstates, p_dinitial, p_offsets, length, chunk, chunks,
    p_relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the states after chunks, last chunk first; du comes in as what the chunk's own outputs send."""
    i_s, i_h, i_block = program(heads, tl.cdiv(values, BV))
    o_k = tl.arange(0, BK)
    o_v = i_block * BV + tl.arange(0, BV)
    mask_s = (o_k < keys)[:, None] & (o_v < values)[None, :]
    o_tile = o_k[:, None] * values + o_v[None, :]
    o_step = tl.arange(0, BT)
    # (BK, BV)
    b_state = tl.load(p_dfinal + (i_s * heads + i_h) * keys * values + o_tile, mask=mask_s, other=0.0).to(ACC)
    begin, end = span(i_s, p_relay_offsets, relay_length, relay_chunk, relay_chunks)
    for n in range(0, end - begin):
        i_c = end - 1 - n
        first, last = span(i_c, p_offsets, length, chunk, chunks)
        tl.store(p_dstates + (i_c * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)
        # Rows of the chunk.
        o_t = first + o_step
        mask_t = o_t < last
        o_row = o_t * heads + i_h
        o_here = o_row[:, None] * values + o_v[None, :]
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        o_where = o_row[:, None] * keys + o_k[None, :]
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        # What the state after the chunk sends to the reads.
        b_left = to_end(p_g, o_where, heads * keys, (o_t + 1 < last)[:, None] & (o_k < keys)[None, :], 0, ACC)
        b_a = tl.load(p_a + o_where, mask=mask_k, other=0.0).to(ACC) * tl.exp(b_left)  # (BT, BK)
        # (BT, BV)
        b_du = tl.load(p_du + o_here, mask=mask_v, other=0.0).to(ACC) + dot(b_a, b_state, DOT, ACC, PRECISION)
        tl.store(p_du + o_here, b_du.to(p_du.dtype.element_ty), mask=mask_v)
        # Queries and reads (BK, BT) from the state before the chunk.
        o_turned = o_row[None, :] * keys + o_k[:, None]
        mask_r = mask_t[None, :] & (o_k < keys)[:, None]
        b_g = tl.load(p_g + o_turned, mask=mask_r, other=0.0).to(ACC)  # (BK, BT)
        b_q = tl.load(p_q + o_turned, mask=mask_r, other=0.0).to(ACC) * tl.exp(tl.cumsum(b_g, 1))  # (BK, BT)
        b_w = tl.load(p_w + o_turned, mask=mask_r, other=0.0)  # (BK, BT)
        b_do = tl.load(p_do + o_here, mask=mask_v, other=0.0)  # (BT, BV)
        b_state *= tl.exp(tl.sum(b_g, 1))[:, None]
        b_state += dot(b_q, b_do, DOT, ACC, PRECISION) + dot(b_w, b_du, DOT, ACC, PRECISION)  # (BK, BV)
    tl.store(p_dinitial + (i_s * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def solve_backward(
    p_inverse, p_du, p_dwanted, p_offsets, length, chunk, chunks, heads, values,
    BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr, SOLVE: tl.constexpr, TIMES: tl.constexpr,
):  # fmt: skip
    """M^T du, what reaches the right side of the system: row t goes to t - 1, where b_t stands as a query.

    Row 0 of a chunk has no such place, and the last one gets zeros: `b_backward` forms it again.
    """
    i_c, i_h, i_block = program(heads, tl.cdiv(values, BV))
    first, last = span(i_c, p_offsets, length, chunk, chunks)
    o_step = tl.arange(0, BT)
    o_t = first + o_step
    mask_t = o_t < last
    o_row = o_t * heads + i_h
    o_v = i_block * BV + tl.arange(0, BV)
    mask_v = mask_t[:, None] & (o_v < values)[None, :]
    # Row t of M^T du one step early: columns t + 1 of M.
    o_follows = tl.where(o_t + 1 < last, o_step + 1, 0)
    # (BT, BT)
    b_solved = tl.load(p_inverse + o_row[None, :] * BT + o_follows[:, None], mask=mask_t[None, :], other=0.0)
    b_du = tl.load(p_du + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
    b_wanted = dot(b_solved, b_du, TIMES, SOLVE, PRECISION)  # (BT, BV)
    o_here = o_row[:, None] * values + o_v[None, :]
    inside = (o_t + 1 < last)[:, None]
    tl.store(p_dwanted + o_here, tl.where(inside, b_wanted, 0.0).to(p_dwanted.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def b_backward(
    p_inverse, p_du, p_borders, p_dq_values, p_dq_reads, p_db, p_offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """db: of later rows what the queries b_{t+1} received at t, of the first row S M^T du."""
    i_c, i_h, i_block = program(heads, tl.cdiv(keys, BK))
    o_step, o_row, mask_t = steps_of(i_c, i_h, heads, p_offsets, length, chunk, chunks, BT)
    o_k = i_block * BK + tl.arange(0, BK)
    b_db_first = tl.zeros((BK,), ACC)
    b_weights = tl.load(p_inverse + o_row * BT, mask=mask_t, other=0.0).to(ACC)  # (BT,)
    for start in range(0, values, BV):
        o_v = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        b_du = tl.load(p_du + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0).to(ACC)  # (BT, BV)
        b_wanted = tl.sum(b_weights[:, None] * b_du, 0)
        o_tile = (i_c * heads + i_h) * keys * values + o_k[:, None] * values + o_v[None, :]
        # (BK, BV)
        b_state = tl.load(p_borders + o_tile, mask=(o_k < keys)[:, None] & (o_v < values)[None, :], other=0.0)
        b_db_first += tl.sum(b_state * b_wanted[None, :], 1)
    mask_k = mask_t[:, None] & (o_k < keys)[None, :]
    o_before = (o_row - heads)[:, None] * keys + o_k[None, :]
    mask_b = mask_k & (o_step > 0)[:, None]
    b_db = tl.load(p_dq_values + o_before, mask=mask_b, other=0.0) + tl.load(
        p_dq_reads + o_before, mask=mask_b, other=0.0
    )  # (BT, BK)
    b_db = tl.where((o_step == 0)[:, None], b_db_first[None, :], b_db)
    tl.store(p_db + o_row[:, None] * keys + o_k[None, :], b_db.to(p_db.dtype.element_ty), mask=mask_k)
