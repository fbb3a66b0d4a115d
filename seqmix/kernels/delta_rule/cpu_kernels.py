"""Numba kernels for the delta rule: tiles of the state of one head, for `BLOCK` steps each.

What keys read of a state is a sum over all of them, so a tile holds every key, of two registers of values on the way
forward. One pass a step makes S_t and reads it for the query and for the next step's key. The backward pass goes, four
values at a time and transposed so that sums over keys fill whole vectors, through the states of a block and back;
states before blocks are kept (the borders).
Letters: L rows of all sequences, S sequences, H heads, K and V widths, G = 1 or 0 decays for each head.
"""

from seqmix.kernels._lanes import (
    first_of,
    fma,
    lanes,
    load,
    load4,
    registers,
    spread,
    store,
    store4,
    totals,
    width,
)  # fmt: skip
from seqmix.kernels._numba import jit, use_wide_vectors
from seqmix.kernels._tiles import fresh, give, put, read, take, total, turn_over

LANES = "affa56c3"  # of `_lanes.py`, which says why
TILES = "697d064e"  # of `_tiles.py`
BLOCK = 32  # steps from one border to the next
Q, K, P = range(3)  # query and key: rows of `column`, and with parts of the decay's gradient of `grads`
# Rows of `row`: value, output or its gradient, and the others as `_back` names them.
V, U, W, LOST, DV, LESS_DV, FADED_DV = range(7)
# Numbers of a step: decay, strength and its gradient, and factors for what is taken away, since vectors know no minus.
A, LESS_A, BETA, LESS, DBETA = range(5)


# For every number that is written into a call Numba compiles a function anew: calls take variables, such as `zero`.
@jit()
def _take_keys(count, q, k, beta, decay, t, h, column, step, like):
    """What `count` steps have for every key, and their numbers; a decay of one stays where nothing decays."""
    rows, zero = (q, k), t - t
    for j in range(2):
        take(count, rows[j], t, h, zero, q.shape[2], column, j, like)
    for i in range(count):
        step[i, BETA] = beta[t + i, h]
        if decay.shape[2]:
            step[i, A], step[i, LESS_A] = decay[t + i, h, 0], -decay[t + i, h, 0]


@jit()
def _steps(count, column, step, row, state, d, like):
    """`count` steps of all keys and of the values from d on, as many as `like` has."""
    use_wide_vectors()
    # What the key of the first step reads; every step reads for the one after it.
    zero = count - count
    moved = read(column, zero + K, state, d, like)
    for i in range(count):
        a, o, following = spread(like, step, i, A), like, like
        x = spread(like, step, i, BETA) * fma(spread(like, step, i, LESS_A), moved, load(like, row, i, V, 0))
        for c in range(0, len(state), 4):
            s0, s1, s2, s3 = load4(like, state, c, d)
            s0 = fma(spread(like, column, i, K, c), x, a * s0)
            s1 = fma(spread(like, column, i, K, c + 1), x, a * s1)
            s2 = fma(spread(like, column, i, K, c + 2), x, a * s2)
            s3 = fma(spread(like, column, i, K, c + 3), x, a * s3)
            store4(s0, s1, s2, s3, state, c, d)
            first = fma(spread(like, column, i, Q, c), s0, spread(like, column, i, Q, c + 1) * s1)
            second = fma(spread(like, column, i, Q, c + 3), s3, spread(like, column, i, Q, c + 2) * s2)
            o = o + (first + second)
            if i + 1 < count:
                first = fma(spread(like, column, i + 1, K, c), s0, spread(like, column, i + 1, K, c + 1) * s1)
                second = fma(spread(like, column, i + 1, K, c + 3), s3, spread(like, column, i + 1, K, c + 2) * s2)
                following = following + (first + second)
        store(o, row, i, U, 0)
        moved = following


@jit()
def forward(first, last, heads, bounds, slots, q, k, v, beta, decay, initial, o, final, borders):
    use_wide_vectors()
    wide, narrow, zero = registers(q, 2), registers(q, 1), first - first
    keys, values = initial.shape[2:]
    padded = (keys + 3) // 4 * 4
    length = padded + width(narrow)  # no power of two, which would keep steps in the same places of the cache
    state = fresh(padded, values + width(wide) - values % width(wide), q)
    column = fresh(2 * (BLOCK + 1), length, q).reshape((BLOCK + 1, 2, length))
    row = fresh(2 * BLOCK, width(wide), q).reshape((BLOCK, 2, width(wide)))
    step = fresh(zero + BLOCK, zero + 5, q)
    step[:, A], step[:, LESS_A] = 1, -1
    for item in range(first, last):
        s, h = item // heads, item % heads
        start, end = bounds[s], bounds[s + 1]
        put(initial[s, h], state, keys, values, narrow)
        state[keys:] = 0  # where the last item wrote 0 times its values, which need not be finite
        for t0 in range(start, end, BLOCK):
            # What a block has for every key.
            count = min(BLOCK, end - t0)
            if t0 > start:
                put(state, borders[slots[s] + (t0 - start) // BLOCK - 1, h], keys, values, narrow)
            _take_keys(count, q, k, beta, decay, t0, h, column, step, narrow)
            # Some vectors of values after the others.
            for d in range(0, values, width(wide)):
                rest = min(width(wide), values - d)
                row[:] = 0
                take(count, v, t0, h, d, rest, row, zero + V, narrow)
                if rest > width(narrow):
                    _steps(count, column, step, row, state, d, wide)
                else:
                    _steps(count, column, step, row, state, d, narrow)
                give(count, row, zero + U, o, t0, h, d, rest, narrow)
        put(state, final[s, h], keys, values, narrow)


@jit()
def _states(count, column, step, row, before, d, path, grads, like):
    """The states of `count` steps for four values from d on, what is written there, and dq = S_t do.

    `path` gets those before each step, four rows each, and the last one.
    """
    use_wide_vectors()
    r0, r1, r2, r3 = like, like, like, like
    for c in range(0, path.shape[1], width(like)):
        s0, s1, s2, s3 = load4(like, before, d, c)
        store4(s0, s1, s2, s3, path, 0, c)
        k = load(like, column, 0, K, c)
        r0, r1, r2, r3 = fma(s0, k, r0), fma(s1, k, r1), fma(s2, k, r2), fma(s3, k, r3)
    for i in range(count):
        moved = totals(r0, r1, r2, r3)
        lost = fma(spread(moved, step, i, LESS_A), moved, load(moved, row, i, V, d))
        store(lost, row, i, LOST, d)
        store(spread(moved, step, i, BETA) * lost, row, i, W, d)
        r0, r1, r2, r3 = like, like, like, like
        a = spread(like, step, i, A)
        for c in range(0, path.shape[1], width(like)):
            k, following = load(like, column, i, K, c), load(like, column, i + 1, K, c)
            s0, s1, s2, s3 = load4(like, path, 4 * i, c)
            s0 = fma(spread(like, row, i, W, d), k, a * s0)
            s1 = fma(spread(like, row, i, W, d + 1), k, a * s1)
            s2 = fma(spread(like, row, i, W, d + 2), k, a * s2)
            s3 = fma(spread(like, row, i, W, d + 3), k, a * s3)
            store4(s0, s1, s2, s3, path, 4 * i + 4, c)
            r0, r1 = fma(s0, following, r0), fma(s1, following, r1)
            r2, r3 = fma(s2, following, r2), fma(s3, following, r3)
            dq = fma(spread(like, row, i, U, d), s0, load(like, grads, i, Q, c))
            dq = fma(spread(like, row, i, U, d + 1), s1, dq)
            dq = fma(spread(like, row, i, U, d + 2), s2, dq)
            store(fma(spread(like, row, i, U, d + 3), s3, dq), grads, i, Q, c)


@jit()
def _back(count, column, step, row, path, Z, d, grads, like):
    """Back through `count` steps: Z comes in as the gradient of the last state, and goes out as that of the first.

    With Z_t, which is q do^T more than what later steps say, with what was lost, l = v - a S^T k, and what was written,
    w = beta l: dv = beta Z^T k, dk = Z w - a S_{t-1} dv, and G = Z - k dv^T goes back a-fold. The gradient of beta is
    the sum of Z^T k l, that of a the sum of G S_{t-1}.
    """
    use_wide_vectors()
    for i in range(count - 1, -1, -1):
        # The gradients of what is written, and with them those of the values.
        x0, x1, x2, x3 = like, like, like, like
        for c in range(0, path.shape[1], width(like)):
            q, k = load(like, column, i, Q, c), load(like, column, i, K, c)
            g0, g1, g2, g3 = load4(like, Z, d, c)
            g0, g1 = fma(spread(like, row, i, U, d), q, g0), fma(spread(like, row, i, U, d + 1), q, g1)
            g2, g3 = fma(spread(like, row, i, U, d + 2), q, g2), fma(spread(like, row, i, U, d + 3), q, g3)
            store4(g0, g1, g2, g3, Z, d, c)
            x0, x1, x2, x3 = fma(g0, k, x0), fma(g1, k, x1), fma(g2, k, x2), fma(g3, k, x3)
        dw = totals(x0, x1, x2, x3)
        dbeta, dv = dw * load(dw, row, i, LOST, d), spread(dw, step, i, BETA) * dw
        step[i, DBETA] += first_of(totals(dbeta, dbeta, dbeta, dbeta))
        store(dv, row, i, DV, d)
        store(spread(dw, step, i, LESS) * dv, row, i, LESS_DV, d)
        store(spread(dw, step, i, LESS_A) * dv, row, i, FADED_DV, d)
        # All others, and the gradient of the state before.
        a = spread(like, step, i, A)
        for c in range(0, path.shape[1], width(like)):
            k, dk, part = load(like, column, i, K, c), load(like, grads, i, K, c), load(like, grads, i, P, c)
            g0, g1, g2, g3 = load4(like, Z, d, c)
            p0, p1, p2, p3 = load4(like, path, 4 * i, c)
            dk = fma(spread(like, row, i, W, d), g0, fma(spread(like, row, i, FADED_DV, d), p0, dk))
            dk = fma(spread(like, row, i, W, d + 1), g1, fma(spread(like, row, i, FADED_DV, d + 1), p1, dk))
            dk = fma(spread(like, row, i, W, d + 2), g2, fma(spread(like, row, i, FADED_DV, d + 2), p2, dk))
            dk = fma(spread(like, row, i, W, d + 3), g3, fma(spread(like, row, i, FADED_DV, d + 3), p3, dk))
            store(dk, grads, i, K, c)
            g0, g1 = fma(spread(like, row, i, LESS_DV, d), k, g0), fma(spread(like, row, i, LESS_DV, d + 1), k, g1)
            g2, g3 = fma(spread(like, row, i, LESS_DV, d + 2), k, g2), fma(spread(like, row, i, LESS_DV, d + 3), k, g3)
            store(fma(p3, g3, fma(p2, g2, fma(p1, g1, fma(p0, g0, part)))), grads, i, P, c)
            store4(a * g0, a * g1, a * g2, a * g3, Z, d, c)


@jit()
def backward(
    first, last, heads, bounds, slots,
    q, k, v, beta, decay, initial, borders, do, dfinal, dq, dk, dv, dbeta, dlog, dinitial,
):  # fmt: skip
    use_wide_vectors()
    narrow, four, zero = registers(q, 1), lanes(q, 4), first - first
    keys, values = initial.shape[2:]
    # Beyond keys and values are zeros.
    padded_keys, padded_values = keys + width(narrow) - keys % width(narrow), (values + 3) // 4 * 4
    before, Z = fresh(padded_values, padded_keys, q), fresh(padded_values, padded_keys, q)
    path = fresh(4 * (BLOCK + 1), padded_keys, q)
    column = fresh(2 * (BLOCK + 1), padded_keys, q).reshape((BLOCK + 1, 2, padded_keys))
    grads = fresh(3 * BLOCK, padded_keys, q).reshape((BLOCK, 3, padded_keys))
    row = fresh(7 * BLOCK, padded_values, q).reshape((BLOCK, 7, padded_values))
    step = fresh(zero + BLOCK, zero + 5, q)
    step[:, A], step[:, LESS_A], step[:, LESS] = 1, -1, -1
    for item in range(first, last):
        s, h = item // heads, item % heads
        start, end = bounds[s], bounds[s + 1]
        Z[:] = 0  # beyond keys and values, too, where the last item may have left what is not finite
        turn_over(dfinal[s, h], Z, keys, values, four)
        for block in range((end - start + BLOCK - 1) // BLOCK - 1, -1, -1):
            # What the block has for every key and value.
            t0 = start + block * BLOCK
            count = min(BLOCK, end - t0)
            border = borders[slots[s] + block - 1, h] if block > 0 else initial[s, h]
            turn_over(border, before, keys, values, four)
            _take_keys(count, q, k, beta, decay, t0, h, column, step, narrow)
            for j in range(2):
                take(count, (v, do)[j], t0, h, zero, values, row, j, narrow)
            # Its states and the way back, four values after the others.
            grads[:] = 0
            step[:, DBETA] = 0
            for d in range(0, values, 4):
                _states(count, column, step, row, before, d, path, grads, narrow)
                _back(count, column, step, row, path, Z, d, grads, narrow)
            # Its gradients.
            for j in range(2):
                give(count, grads, j, (dq, dk)[j], t0, h, zero, keys, narrow)
            give(count, row, zero + DV, dv, t0, h, zero, values, narrow)
            for i in range(count):
                dbeta[t0 + i, h] = step[i, DBETA]
                if decay.shape[2]:
                    dlog[t0 + i, h, 0] = step[i, A] * total(grads, i, zero + P, narrow)
        turn_over(Z, dinitial[s, h], values, keys, four)
