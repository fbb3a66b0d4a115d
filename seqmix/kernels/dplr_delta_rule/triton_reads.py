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
from seqmix.kernels._triton_chunks import RUNTIME, dot, program, to_end


@triton.jit(do_not_specialize=RUNTIME)
def prepare(
    b, v, g, scores_ba, scores_bk, inverse, w, u, offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, SOLVE: tl.constexpr, TIMES: tl.constexpr,
):  # fmt: skip
    """M (BT, BT), w = M (b e^c) and u = M A_bk v of every chunk."""
    c, h, _ = program(heads, 1)
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    mask_t = first + step < last
    row = (first + step) * heads + h
    before = row - heads
    mask_b = mask_t & (step > 0)
    # A_ba transposed: row t of A_ba is then a column, which weighs the rows of M.
    lower = tl.load(scores_ba + before[None, :] * BT + step[:, None], mask=mask_b[None, :], other=0.0).to(SOLVE)
    solved = tl.where(step[:, None] == step[None, :], 1.0, 0.0).to(SOLVE)
    for t in range(1, BT):
        weights = tl.sum(tl.where(step[None, :] == t, lower, 0.0), 1)
        added = tl.sum(weights[:, None] * solved, 0)
        solved += tl.where(step[:, None] == t, added[None, :], 0.0)
    tl.store(inverse + row[:, None] * BT + step[None, :], solved, mask=mask_t[:, None])
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        g_b = tl.load(g + before[:, None] * keys + i[None, :], mask=mask_b[:, None] & (i < keys)[None, :], other=0.0)
        b_t = tl.load(b + row[:, None] * keys + i[None, :], mask=mask_k, other=0.0).to(ACC)
        b_t *= tl.exp(tl.cumsum(g_b.to(ACC), 0))
        w_t = dot(solved, b_t, TIMES, SOLVE, PRECISION)
        tl.store(w + row[:, None] * keys + i[None, :], w_t.to(w.dtype.element_ty), mask=mask_k)
    pairs = tl.load(scores_bk + before[:, None] * BT + step[None, :], mask=mask_b[:, None], other=0.0)
    pairs = dot(solved, pairs, SOLVE, SOLVE, PRECISION)
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (j < values)[None, :]
        v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        u_t = dot(pairs, v_t, TIMES, SOLVE, PRECISION)
        tl.store(u + row[:, None] * values + j[None, :], u_t.to(u.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def states(
    k, v, a, w, u, g, initial, borders, final, offsets, length, chunk, chunks,
    relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The states before chunks, chunk after chunk; u comes in as M A_bk v and goes out as what b reads."""
    s, h, block = program(heads, tl.cdiv(values, BV))
    i = tl.arange(0, BK)
    j = block * BV + tl.arange(0, BV)
    mask_s = (i < keys)[:, None] & (j < values)[None, :]
    tile = i[:, None] * values + j[None, :]
    step = tl.arange(0, BT)
    state = tl.load(initial + (s * heads + h) * keys * values + tile, mask=mask_s, other=0.0).to(ACC)
    begin, end = span(s, relay_offsets, relay_length, relay_chunk, relay_chunks)
    for n in range(0, end - begin):
        c = begin + n
        first, last = span(c, offsets, length, chunk, chunks)
        tl.store(borders + (c * heads + h) * keys * values + tile, state, mask=mask_s)
        t = first + step
        mask_t = t < last
        row = t * heads + h
        here = row[:, None] * values + j[None, :]
        mask_v = mask_t[:, None] & (j < values)[None, :]
        where = row[None, :] * keys + i[:, None]
        mask_k = mask_t[None, :] & (i < keys)[:, None]
        w_t = tl.load(w + row[:, None] * keys + i[None, :], mask=mask_t[:, None] & (i < keys)[None, :], other=0.0)
        u_t = tl.load(u + here, mask=mask_v, other=0.0).to(ACC) + dot(w_t, state, DOT, ACC, PRECISION)
        tl.store(u + here, u_t.to(u.dtype.element_ty), mask=mask_v)
        # Keys (BK, BT) as they are at the end of the chunk.
        left = tl.exp(to_end(g, where, heads * keys, (t + 1 < last)[None, :] & (i < keys)[:, None], 1, ACC))
        k_t = tl.load(k + where, mask=mask_k, other=0.0).to(ACC) * left
        a_t = tl.load(a + where, mask=mask_k, other=0.0).to(ACC) * left
        state *= tl.exp(tl.sum(tl.load(g + where, mask=mask_k, other=0.0).to(ACC), 1))[:, None]
        v_t = tl.load(v + here, mask=mask_v, other=0.0)
        state += dot(k_t, v_t, DOT, ACC, PRECISION) + dot(a_t, u_t, DOT, ACC, PRECISION)
    tl.store(final + (s * heads + h) * keys * values + tile, state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def reads(
    w, u, borders, offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """What b reads in all chunks at once where the states before them are known; u comes in as M A_bk v."""
    c, h, block = program(heads, tl.cdiv(values, BV))
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    mask_t = first + step < last
    row = (first + step) * heads + h
    j = block * BV + tl.arange(0, BV)
    here = row[:, None] * values + j[None, :]
    mask_v = mask_t[:, None] & (j < values)[None, :]
    u_t = tl.load(u + here, mask=mask_v, other=0.0).to(ACC)
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        w_t = tl.load(w + row[:, None] * keys + i[None, :], mask=mask_t[:, None] & (i < keys)[None, :], other=0.0)
        tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
        state = tl.load(borders + tile, mask=(i < keys)[:, None] & (j < values)[None, :], other=0.0)
        u_t += dot(w_t, state, DOT, ACC, PRECISION)
    tl.store(u + here, u_t.to(u.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def states_backward(
    q, a, w, g, do, du, dfinal, dstates, dinitial, offsets, length, chunk, chunks,
    relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the states after chunks, last chunk first; du comes in as what the chunk's own outputs send."""
    s, h, block = program(heads, tl.cdiv(values, BV))
    i = tl.arange(0, BK)
    j = block * BV + tl.arange(0, BV)
    mask_s = (i < keys)[:, None] & (j < values)[None, :]
    tile = i[:, None] * values + j[None, :]
    step = tl.arange(0, BT)
    state = tl.load(dfinal + (s * heads + h) * keys * values + tile, mask=mask_s, other=0.0).to(ACC)
    begin, end = span(s, relay_offsets, relay_length, relay_chunk, relay_chunks)
    for n in range(0, end - begin):
        c = end - 1 - n
        first, last = span(c, offsets, length, chunk, chunks)
        tl.store(dstates + (c * heads + h) * keys * values + tile, state, mask=mask_s)
        t = first + step
        mask_t = t < last
        row = t * heads + h
        here = row[:, None] * values + j[None, :]
        mask_v = mask_t[:, None] & (j < values)[None, :]
        where = row[:, None] * keys + i[None, :]
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        left = to_end(g, where, heads * keys, (t + 1 < last)[:, None] & (i < keys)[None, :], 0, ACC)
        a_t = tl.load(a + where, mask=mask_k, other=0.0).to(ACC) * tl.exp(left)
        du_t = tl.load(du + here, mask=mask_v, other=0.0).to(ACC) + dot(a_t, state, DOT, ACC, PRECISION)
        tl.store(du + here, du_t.to(du.dtype.element_ty), mask=mask_v)
        # Queries and reads (BK, BT) from the state before the chunk.
        turned = row[None, :] * keys + i[:, None]
        mask_r = mask_t[None, :] & (i < keys)[:, None]
        g_t = tl.load(g + turned, mask=mask_r, other=0.0).to(ACC)
        q_t = tl.load(q + turned, mask=mask_r, other=0.0).to(ACC) * tl.exp(tl.cumsum(g_t, 1))
        w_t = tl.load(w + turned, mask=mask_r, other=0.0)
        do_t = tl.load(do + here, mask=mask_v, other=0.0)
        state *= tl.exp(tl.sum(g_t, 1))[:, None]
        state += dot(q_t, do_t, DOT, ACC, PRECISION) + dot(w_t, du_t, DOT, ACC, PRECISION)
    tl.store(dinitial + (s * heads + h) * keys * values + tile, state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def solve_backward(
    inverse, du, dwanted, offsets, length, chunk, chunks, heads, values,
    BT: tl.constexpr, BV: tl.constexpr, PRECISION: tl.constexpr, SOLVE: tl.constexpr, TIMES: tl.constexpr,
):  # fmt: skip
    """M^T du, what reaches the right side of the system: row t goes to t - 1, where b_t stands as a query.

    Row 0 of a chunk has no such place, and the last one gets zeros: `b_backward` forms it again.
    """
    c, h, block = program(heads, tl.cdiv(values, BV))
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    t = first + step
    mask_t = t < last
    row = t * heads + h
    j = block * BV + tl.arange(0, BV)
    mask_v = mask_t[:, None] & (j < values)[None, :]
    # Row t of M^T du one step early: columns t + 1 of M.
    follows = tl.where(t + 1 < last, step + 1, 0)
    solved = tl.load(inverse + row[None, :] * BT + follows[:, None], mask=mask_t[None, :], other=0.0)
    du_t = tl.load(du + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
    wanted = dot(solved, du_t, TIMES, SOLVE, PRECISION)
    here = row[:, None] * values + j[None, :]
    inside = (t + 1 < last)[:, None]
    tl.store(dwanted + here, tl.where(inside, wanted, 0.0).to(dwanted.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def b_backward(
    inverse, du, borders, dq_values, dq_reads, db, offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    """db: of later rows what the queries b_{t+1} received at t, of the first row S M^T du."""
    c, h, block = program(heads, tl.cdiv(keys, BK))
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    mask_t = first + step < last
    row = (first + step) * heads + h
    i = block * BK + tl.arange(0, BK)
    db_first = tl.zeros((BK,), ACC)
    weights = tl.load(inverse + row * BT, mask=mask_t, other=0.0).to(ACC)
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (j < values)[None, :]
        du_t = tl.load(du + row[:, None] * values + j[None, :], mask=mask_v, other=0.0).to(ACC)
        wanted = tl.sum(weights[:, None] * du_t, 0)
        tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
        state = tl.load(borders + tile, mask=(i < keys)[:, None] & (j < values)[None, :], other=0.0)
        db_first += tl.sum(state * wanted[None, :], 1)
    mask_k = mask_t[:, None] & (i < keys)[None, :]
    before = (row - heads)[:, None] * keys + i[None, :]
    mask_b = mask_k & (step > 0)[:, None]
    db_t = tl.load(dq_values + before, mask=mask_b, other=0.0) + tl.load(dq_reads + before, mask=mask_b, other=0.0)
    db_t = tl.where((step == 0)[:, None], db_first[None, :], db_t)
    tl.store(db + row[:, None] * keys + i[None, :], db_t.to(db.dtype.element_ty), mask=mask_k)
