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
from seqmix.kernels._triton_chunks import RUNTIME, between, dot, program, running, to_end
from seqmix.kernels._triton_outputs import crossing_sums


@triton.jit(do_not_specialize=RUNTIME)
def prepare(
    k, v, beta, g, inverse, w, u, offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, SOLVE: tl.constexpr, TIMES: tl.constexpr,
):  # fmt: skip
    """R, w and R (beta v) of every chunk."""
    c, h, _ = program(heads, 1)
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    mask_t = first + step < last
    row = (first + step) * heads + h
    beta_t = tl.load(beta + row, mask=mask_t, other=0.0).to(ACC)
    upto = running(g, row, mask_t, GATES)
    # L transposed: row t of L is then a column, which weighs the rows of R.
    lower = tl.zeros((BT, BT), SOLVE)
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        k_t = tl.load(k + row[:, None] * keys + i[None, :], mask=mask_t[:, None] & (i < keys)[None, :], other=0.0)
        lower += dot(k_t, tl.trans(k_t), SOLVE, SOLVE, PRECISION)
    strict = step[:, None] > step[None, :]
    lower = tl.trans(tl.where(strict, beta_t[:, None] * between(upto, strict, SOLVE) * lower, 0.0))
    solved = tl.where(step[:, None] == step[None, :], 1.0, 0.0).to(SOLVE)
    for t in range(1, BT):
        weights = tl.sum(tl.where(step[None, :] == t, lower, 0.0), 1)
        reduced = tl.sum(weights[:, None] * solved, 0)
        solved -= tl.where(step[:, None] == t, reduced[None, :], 0.0)
    tl.store(inverse + row[:, None] * BT + step[None, :], solved, mask=mask_t[:, None])
    decayed = beta_t * tl.exp(upto.to(ACC))
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        k_t = tl.load(k + row[:, None] * keys + i[None, :], mask=mask_k, other=0.0).to(ACC)
        w_t = dot(solved, decayed[:, None] * k_t, TIMES, SOLVE, PRECISION)
        tl.store(w + row[:, None] * keys + i[None, :], w_t.to(w.dtype.element_ty), mask=mask_k)
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (j < values)[None, :]
        v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0).to(ACC)
        u_t = dot(solved, beta_t[:, None] * v_t, TIMES, SOLVE, PRECISION)
        tl.store(u + row[:, None] * values + j[None, :], u_t.to(u.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def states(
    k, w, u, g, initial, borders, final, offsets, length, chunk, chunks,
    relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """The states before chunks, chunk after chunk; u comes in as R (beta v) and goes out as the writes."""
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
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        here = row[:, None] * values + j[None, :]
        mask_v = mask_t[:, None] & (j < values)[None, :]
        w_t = tl.load(w + row[:, None] * keys + i[None, :], mask=mask_k, other=0.0)
        u_t = tl.load(u + here, mask=mask_v, other=0.0).to(ACC) - dot(w_t, state, DOT, ACC, PRECISION)
        tl.store(u + here, u_t.to(u.dtype.element_ty), mask=mask_v)
        k_t = tl.load(k + row[None, :] * keys + i[:, None], mask=mask_t[None, :] & (i < keys)[:, None], other=0.0)
        if GATES == 1:
            u_t *= tl.exp(to_end(g, row, heads, t + 1 < last, 0, ACC))[:, None]
            state *= tl.exp(tl.sum(tl.load(g + row, mask=mask_t, other=0.0).to(ACC), 0))
        state += dot(k_t, u_t, DOT, ACC, PRECISION)
    tl.store(final + (s * heads + h) * keys * values + tile, state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def writes(
    w, u, borders, offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """u of all chunks at once where the states before them are known; it comes in as R (beta v)."""
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
        u_t -= dot(w_t, state, DOT, ACC, PRECISION)
    tl.store(u + here, u_t.to(u.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def states_backward(
    q, k, w, g, do, du, dfinal, dstates, dinitial, offsets, length, chunk, chunks,
    relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
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
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        mask_r = mask_t[None, :] & (i < keys)[:, None]
        here = row[:, None] * values + j[None, :]
        mask_v = mask_t[:, None] & (j < values)[None, :]
        k_t = tl.load(k + row[:, None] * keys + i[None, :], mask=mask_k, other=0.0)
        sent = dot(k_t, state, DOT, ACC, PRECISION)
        do_t = tl.load(do + here, mask=mask_v, other=0.0).to(ACC)
        if GATES == 1:
            g_t = tl.load(g + row, mask=mask_t, other=0.0).to(ACC)
            sent *= tl.exp(to_end(g, row, heads, t + 1 < last, 0, ACC))[:, None]
            do_t *= tl.exp(tl.cumsum(g_t, 0))[:, None]
            state *= tl.exp(tl.sum(g_t, 0))
        du_t = tl.load(du + here, mask=mask_v, other=0.0).to(ACC) + sent
        tl.store(du + here, du_t.to(du.dtype.element_ty), mask=mask_v)
        q_t = tl.load(q + row[None, :] * keys + i[:, None], mask=mask_r, other=0.0)
        w_t = tl.load(w + row[None, :] * keys + i[:, None], mask=mask_r, other=0.0)
        state += dot(q_t, do_t, DOT, ACC, PRECISION) - dot(w_t, du_t, DOT, ACC, PRECISION)
    tl.store(dinitial + (s * heads + h) * keys * values + tile, state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def prepare_backward(
    k, v, beta, g, inverse, dw, du, dk_states, dk, dv, dbeta, dg, offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr, SOLVE: tl.constexpr, TIMES: tl.constexpr,
):  # fmt: skip
    """From the gradients of u and w to those of k, v, beta and log g; dk and dg come in with what else reaches them."""
    c, h, _ = program(heads, 1)
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    mask_t = first + step < last
    row = (first + step) * heads + h
    # Of the whole chunk: strengths and decays (BT,), the inverse R of I + L (BT, BT).
    beta_t = tl.load(beta + row, mask=mask_t, other=0.0).to(ACC)
    upto = running(g, row, mask_t, GATES)
    decay = tl.exp(upto.to(ACC))
    solved = tl.load(inverse + row[:, None] * BT + step[None, :], mask=mask_t[:, None], other=0.0)
    transposed = tl.trans(solved)
    dsolved = tl.zeros((BT, BT), ACC)
    dbeta_t = tl.zeros((BT,), ACC)
    # From du: dv, and the parts of dR and dbeta.
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        here = row[:, None] * values + j[None, :]
        mask_v = mask_t[:, None] & (j < values)[None, :]
        v_t = tl.load(v + here, mask=mask_v, other=0.0).to(ACC)
        du_t = tl.load(du + here, mask=mask_v, other=0.0)
        dsolved += dot(du_t, tl.trans(beta_t[:, None] * v_t), DOT, ACC, PRECISION)
        back = dot(transposed, du_t, TIMES, SOLVE, PRECISION).to(ACC)
        dbeta_t += tl.sum(back * v_t, 1)
        tl.store(dv + here, (beta_t[:, None] * back).to(dv.dtype.element_ty), mask=mask_v)
    # From dw: the parts of dR and dbeta; k k^T on the way.
    products = tl.zeros((BT, BT), ACC)
    given = tl.zeros((BT,), ACC)
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        where = row[:, None] * keys + i[None, :]
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        k_t = tl.load(k + where, mask=mask_k, other=0.0)
        dw_t = tl.load(dw + where, mask=mask_k, other=0.0)
        decayed = (beta_t * decay)[:, None] * k_t.to(ACC)
        dsolved += dot(dw_t, tl.trans(decayed), DOT, ACC, PRECISION)
        products += dot(k_t, tl.trans(k_t), DOT, ACC, PRECISION)
        given += tl.sum(dot(transposed, dw_t, TIMES, SOLVE, PRECISION).to(ACC) * k_t.to(ACC), 1)
    given *= decay
    dbeta_t += given
    # d(I + L) = -R^T dR R^T; these products feed differences of steps, so bfloat16 is not enough for them.
    dlower = dot(transposed, dot(dsolved, transposed, SOLVE, SOLVE, PRECISION), SOLVE, SOLVE, PRECISION)
    strict = step[:, None] > step[None, :]
    dlower = tl.where(strict, -dlower.to(ACC) * between(upto, strict, ACC), 0.0)
    dbeta_t += tl.sum(dlower * products, 1)
    tl.store(dbeta + row, dbeta_t.to(dbeta.dtype.element_ty), mask=mask_t)
    # To the log decays, by what crosses each step.
    dlower *= beta_t[:, None]
    if GATES == 1:
        crossing = crossing_sums(dlower * products, step)
        crossing += tl.sum(tl.where(step[:, None] >= step[None, :], (beta_t * given)[:, None], 0.0), 0)
        crossing += tl.load(dg + row, mask=mask_t, other=0.0)
        tl.store(dg + row, crossing, mask=mask_t)
    # To the keys.
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        where = row[:, None] * keys + i[None, :]
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        k_t = tl.load(k + where, mask=mask_k, other=0.0)
        dw_t = tl.load(dw + where, mask=mask_k, other=0.0)
        dk_t = tl.load(dk_states + where, mask=mask_k, other=0.0)
        dk_t += (beta_t * decay)[:, None] * dot(transposed, dw_t, TIMES, SOLVE, PRECISION).to(ACC)
        dk_t += dot(dlower, k_t, DOT, ACC, PRECISION) + dot(tl.trans(dlower), k_t, DOT, ACC, PRECISION)
        tl.store(dk + where, dk_t.to(dk.dtype.element_ty), mask=mask_k)
