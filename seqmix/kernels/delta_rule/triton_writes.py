"""Triton kernels for what the delta rule adds to linear attention: the writes of a chunk, and their gradients.

With u_t = beta_t (v_t - e^{g_t} S_{t-1}^T k_t), what step t writes along k_t, the delta rule is linear attention whose
values are u. In a chunk that starts from S they solve a triangular system (the UT transform): with
L_tj = beta_t D_tj (k_t . k_j) for j < t and R = (I + L)^-1,

    u = R (beta v) - w S,    w = R (beta e^G k).

R is found row by row: a product of powers of L, all of it matrix products, would cancel where keys repeat. It
multiplies errors of L by the length of a chunk, so it is found in `SOLVE`, float64 for float32, and multiplied in
`TIMES`. Letters as in `_triton_chunks`; a tile of a state holds all of its keys, because each write needs them.
"""

import triton
import triton.language as tl

from seqmix.kernels._triton import span
from seqmix.kernels._triton_chunks import RUNTIME, between, dot, program, running, steps_of, to_end
from seqmix.kernels._triton_outputs import crossing_sums


@triton.jit(do_not_specialize=RUNTIME)
def prepare(
    p_k, p_v, p_beta, p_g, p_inverse, p_w, p_u, p_offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, SOLVE: tl.constexpr, TIMES: tl.constexpr,
):  # fmt: skip
    """R, w and R (beta v) of every chunk."""
    i_c, i_h, _ = program(heads, 1)
    o_step, o_row, mask_t = steps_of(i_c, i_h, heads, p_offsets, length, chunk, chunks, BT)
    b_beta = tl.load(p_beta + o_row, mask=mask_t, other=0.0).to(ACC)  # (BT,)
    upto = running(p_g, o_row, mask_t, GATES)
    # L transposed: row t of L is then a column, which weighs the rows of R.
    b_lower = tl.zeros((BT, BT), SOLVE)
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        b_k = tl.load(
            p_k + o_row[:, None] * keys + o_k[None, :], mask=mask_t[:, None] & (o_k < keys)[None, :], other=0.0
        )  # (BT, BK)
        b_lower += dot(b_k, tl.trans(b_k), SOLVE, SOLVE, PRECISION)  # (BT, BT)
    strict = o_step[:, None] > o_step[None, :]
    b_lower = tl.trans(tl.where(strict, b_beta[:, None] * between(upto, strict, SOLVE) * b_lower, 0.0))
    # R, row by row.
    b_solved = tl.where(o_step[:, None] == o_step[None, :], 1.0, 0.0).to(SOLVE)
    for t in range(1, BT):
        weights = tl.sum(tl.where(o_step[None, :] == t, b_lower, 0.0), 1)
        reduced = tl.sum(weights[:, None] * b_solved, 0)
        b_solved -= tl.where(o_step[:, None] == t, reduced[None, :], 0.0)
    tl.store(p_inverse + o_row[:, None] * BT + o_step[None, :], b_solved, mask=mask_t[:, None])
    # w and R (beta v).
    decayed = b_beta * tl.exp(upto.to(ACC))
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        b_k = tl.load(p_k + o_row[:, None] * keys + o_k[None, :], mask=mask_k, other=0.0).to(ACC)  # (BT, BK)
        b_w = dot(b_solved, decayed[:, None] * b_k, TIMES, SOLVE, PRECISION)  # (BT, BK)
        tl.store(p_w + o_row[:, None] * keys + o_k[None, :], b_w.to(p_w.dtype.element_ty), mask=mask_k)
    for start in range(0, values, BV):
        o_v = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        b_v = tl.load(p_v + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0).to(ACC)  # (BT, BV)
        b_u = dot(b_solved, b_beta[:, None] * b_v, TIMES, SOLVE, PRECISION)  # (BT, BV)
        tl.store(p_u + o_row[:, None] * values + o_v[None, :], b_u.to(p_u.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def states(
    p_k, p_w, p_u, p_g, p_initial, p_borders, p_final, p_offsets, length, chunk, chunks,
    p_relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The states before chunks, chunk after chunk; u comes in as R (beta v) and goes out as the writes."""
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
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        o_here = o_row[:, None] * values + o_v[None, :]
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        b_w = tl.load(p_w + o_row[:, None] * keys + o_k[None, :], mask=mask_k, other=0.0)  # (BT, BK)
        b_u = tl.load(p_u + o_here, mask=mask_v, other=0.0).to(ACC) - dot(b_w, b_state, DOT, ACC, PRECISION)  # (BT, BV)
        tl.store(p_u + o_here, b_u.to(p_u.dtype.element_ty), mask=mask_v)
        b_k = tl.load(
            p_k + o_row[None, :] * keys + o_k[:, None], mask=mask_t[None, :] & (o_k < keys)[:, None], other=0.0
        )  # (BK, BT)
        if GATES == 1:
            b_u *= tl.exp(to_end(p_g, o_row, heads, o_t + 1 < last, 0, ACC))[:, None]
            b_state *= tl.exp(tl.sum(tl.load(p_g + o_row, mask=mask_t, other=0.0).to(ACC), 0))  # (BT,)
        b_state += dot(b_k, b_u, DOT, ACC, PRECISION)  # (BK, BV)
    tl.store(p_final + (i_s * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def states_backward(
    p_q, p_k, p_w, p_g, p_do, p_du, p_dfinal, p_dstates, p_dinitial, p_offsets, length, chunk, chunks,
    p_relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
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
        # Rows of the chunk, and of its keys turned.
        o_t = first + o_step
        mask_t = o_t < last
        o_row = o_t * heads + i_h
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        mask_r = mask_t[None, :] & (o_k < keys)[:, None]
        o_here = o_row[:, None] * values + o_v[None, :]
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        # What the state after the chunk sends to the writes, decayed like them.
        b_k = tl.load(p_k + o_row[:, None] * keys + o_k[None, :], mask=mask_k, other=0.0)  # (BT, BK)
        b_sent = dot(b_k, b_state, DOT, ACC, PRECISION)  # (BT, BV)
        b_do = tl.load(p_do + o_here, mask=mask_v, other=0.0).to(ACC)  # (BT, BV)
        if GATES == 1:
            b_g = tl.load(p_g + o_row, mask=mask_t, other=0.0).to(ACC)  # (BT,)
            b_sent *= tl.exp(to_end(p_g, o_row, heads, o_t + 1 < last, 0, ACC))[:, None]
            b_do *= tl.exp(tl.cumsum(b_g, 0))[:, None]
            b_state *= tl.exp(tl.sum(b_g, 0))
        b_du = tl.load(p_du + o_here, mask=mask_v, other=0.0).to(ACC) + b_sent  # (BT, BV)
        tl.store(p_du + o_here, b_du.to(p_du.dtype.element_ty), mask=mask_v)
        # The state before the chunk.
        b_q = tl.load(p_q + o_row[None, :] * keys + o_k[:, None], mask=mask_r, other=0.0)  # (BK, BT)
        b_w = tl.load(p_w + o_row[None, :] * keys + o_k[:, None], mask=mask_r, other=0.0)  # (BK, BT)
        b_state += dot(b_q, b_do, DOT, ACC, PRECISION) - dot(b_w, b_du, DOT, ACC, PRECISION)  # (BK, BV)
    tl.store(p_dinitial + (i_s * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def prepare_backward(
    p_k, p_v, p_beta, p_g, p_inverse, p_dw, p_du, p_dk_states, p_dk, p_dv, p_dbeta, p_dg,
    p_offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr, SOLVE: tl.constexpr, TIMES: tl.constexpr,
):  # fmt: skip
    """From the gradients of u and w to those of k, v, beta and log g; dk and dg come in with what else reaches them."""
    i_c, i_h, _ = program(heads, 1)
    o_step, o_row, mask_t = steps_of(i_c, i_h, heads, p_offsets, length, chunk, chunks, BT)
    # Of the whole chunk: strengths and decays (BT,), the inverse R of I + L (BT, BT).
    b_beta = tl.load(p_beta + o_row, mask=mask_t, other=0.0).to(ACC)  # (BT,)
    upto = running(p_g, o_row, mask_t, GATES)
    b_decay = tl.exp(upto.to(ACC))
    b_solved = tl.load(p_inverse + o_row[:, None] * BT + o_step[None, :], mask=mask_t[:, None], other=0.0)  # (BT, BT)
    b_transposed = tl.trans(b_solved)
    b_dsolved = tl.zeros((BT, BT), ACC)
    b_dbeta = tl.zeros((BT,), ACC)
    # From du: dv, and the parts of dR and dbeta.
    for start in range(0, values, BV):
        o_v = start + tl.arange(0, BV)
        o_here = o_row[:, None] * values + o_v[None, :]
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        b_v = tl.load(p_v + o_here, mask=mask_v, other=0.0).to(ACC)  # (BT, BV)
        b_du = tl.load(p_du + o_here, mask=mask_v, other=0.0)  # (BT, BV)
        b_dsolved += dot(b_du, tl.trans(b_beta[:, None] * b_v), DOT, ACC, PRECISION)  # (BT, BT)
        b_back = dot(b_transposed, b_du, TIMES, SOLVE, PRECISION).to(ACC)  # (BT, BV)
        b_dbeta += tl.sum(b_back * b_v, 1)
        tl.store(p_dv + o_here, (b_beta[:, None] * b_back).to(p_dv.dtype.element_ty), mask=mask_v)
    # From dw: the parts of dR and dbeta; k k^T on the way.
    b_products = tl.zeros((BT, BT), ACC)
    b_given = tl.zeros((BT,), ACC)
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        o_where = o_row[:, None] * keys + o_k[None, :]
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        b_k = tl.load(p_k + o_where, mask=mask_k, other=0.0)  # (BT, BK)
        b_dw = tl.load(p_dw + o_where, mask=mask_k, other=0.0)  # (BT, BK)
        decayed = (b_beta * b_decay)[:, None] * b_k.to(ACC)
        b_dsolved += dot(b_dw, tl.trans(decayed), DOT, ACC, PRECISION)  # (BT, BT)
        b_products += dot(b_k, tl.trans(b_k), DOT, ACC, PRECISION)  # (BT, BT)
        b_given += tl.sum(dot(b_transposed, b_dw, TIMES, SOLVE, PRECISION).to(ACC) * b_k.to(ACC), 1)  # (BT, BK)
    b_given *= b_decay
    b_dbeta += b_given
    # d(I + L) = -R^T dR R^T; these products feed differences of steps, so bfloat16 is not enough for them.
    # (BT, BT)
    b_dlower = dot(b_transposed, dot(b_dsolved, b_transposed, SOLVE, SOLVE, PRECISION), SOLVE, SOLVE, PRECISION)
    strict = o_step[:, None] > o_step[None, :]
    b_dlower = tl.where(strict, -b_dlower.to(ACC) * between(upto, strict, ACC), 0.0)
    b_dbeta += tl.sum(b_dlower * b_products, 1)
    tl.store(p_dbeta + o_row, b_dbeta.to(p_dbeta.dtype.element_ty), mask=mask_t)
    # To the log decays, by what crosses each step.
    b_dlower *= b_beta[:, None]
    if GATES == 1:
        crossing = crossing_sums(b_dlower * b_products, o_step)
        crossing += tl.sum(tl.where(o_step[:, None] >= o_step[None, :], (b_beta * b_given)[:, None], 0.0), 0)
        crossing += tl.load(p_dg + o_row, mask=mask_t, other=0.0)  # (BT,)
        tl.store(p_dg + o_row, crossing, mask=mask_t)
    # To the keys.
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        o_where = o_row[:, None] * keys + o_k[None, :]
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        b_k = tl.load(p_k + o_where, mask=mask_k, other=0.0)  # (BT, BK)
        b_dw = tl.load(p_dw + o_where, mask=mask_k, other=0.0)  # (BT, BK)
        b_dk = tl.load(p_dk_states + o_where, mask=mask_k, other=0.0)  # (BT, BK)
        b_dk += (b_beta * b_decay)[:, None] * dot(b_transposed, b_dw, TIMES, SOLVE, PRECISION).to(ACC)  # (BT, BK)
        b_dk += dot(b_dlower, b_k, DOT, ACC, PRECISION) + dot(tl.trans(b_dlower), b_k, DOT, ACC, PRECISION)  # (BT, BK)
        tl.store(p_dk + o_where, b_dk.to(p_dk.dtype.element_ty), mask=mask_k)
