"""Numba kernels for the generalised delta rule: tiles of the state of one head, for `BLOCK` steps each.

What b reads of a state is a sum over all keys, so a tile holds every key, of two registers of values on the way
forward. One pass a step makes S_t and reads it for the query and for the next step's b. The backward pass goes, four
values at a time and transposed so that sums over keys fill whole vectors, through the states of a block and back;
states before blocks are kept (the borders).
Letters: L rows of all sequences, S sequences, H heads, K and V widths.
"""

from seqmix.kernels._lanes import fma, lanes, load, load4, registers, spread, store, store4, totals, width
from seqmix.kernels._numba import jit, use_wide_vectors
from seqmix.kernels._tiles import fresh, give, put, read, take, turn_over

LANES = "affa56c3"  # of `_lanes.py`, which says why
TILES = "697d064e"  # of `_tiles.py`
BLOCK = 32  # steps from one border to the next
Q, K, A, B, W = range(5)  # rows of `column`, what one step has for every key, and of `grads`, their gradients
V, U, R = range(3)  # value, output or its gradient, and what b has read: rows of `row`
DV, DR = range(2)  # gradients of value and of what b has read: rows of `moved`


# For every number that is written into a call Numba compiles a function anew: calls take variables, such as `zero`.
@jit()
def _take_keys(count, q, k, a, b, w, t, h, column, like):
    """What `count` steps have for every key."""
    rows, zero = (q, k, a, b, w), t - t
    for j in range(5):
        take(count, rows[j], t, h, zero, q.shape[2], column, j, like)


@jit()
def _steps(count, column, row, state, d, like):
    """`count` steps of all keys and of the values from d on, as many as `like` has."""
    use_wide_vectors()
    # What b of the first step reads; every step reads for the one after it.
    zero = count - count
    moved = read(column, zero + B, state, d, like)
    for i in range(count):
        x, o, following = load(like, row, i, V, 0), like, like
        for c in range(0, len(state), 4):
            s0, s1, s2, s3 = load4(like, state, c, d)
            old = fma(spread(like, column, i, A, c), moved, spread(like, column, i, W, c) * s0)
            s0 = fma(spread(like, column, i, K, c), x, old)
            old = fma(spread(like, column, i, A, c + 1), moved, spread(like, column, i, W, c + 1) * s1)
            s1 = fma(spread(like, column, i, K, c + 1), x, old)
            old = fma(spread(like, column, i, A, c + 2), moved, spread(like, column, i, W, c + 2) * s2)
            s2 = fma(spread(like, column, i, K, c + 2), x, old)
            old = fma(spread(like, column, i, A, c + 3), moved, spread(like, column, i, W, c + 3) * s3)
            s3 = fma(spread(like, column, i, K, c + 3), x, old)
            store4(s0, s1, s2, s3, state, c, d)
            first = fma(spread(like, column, i, Q, c), s0, spread(like, column, i, Q, c + 1) * s1)
            second = fma(spread(like, column, i, Q, c + 3), s3, spread(like, column, i, Q, c + 2) * s2)
            o = o + (first + second)
            if i + 1 < count:
                first = fma(spread(like, column, i + 1, B, c), s0, spread(like, column, i + 1, B, c + 1) * s1)
                second = fma(spread(like, column, i + 1, B, c + 3), s3, spread(like, column, i + 1, B, c + 2) * s2)
                following = following + (first + second)
        store(o, row, i, U, 0)
        moved = following


@jit()
def forward(first, last, heads, bounds, slots, q, k, v, a, b, w, initial, o, final, borders):
    use_wide_vectors()
    wide, narrow, zero = registers(q, 2), registers(q, 1), first - first
    keys, values = initial.shape[2:]
    padded = (keys + 3) // 4 * 4
    length = padded + width(narrow)  # no power of two, which would keep steps in the same places of the cache
    state = fresh(padded, values + width(wide) - values % width(wide), q)
    column = fresh(5 * (BLOCK + 1), length, q).reshape((BLOCK + 1, 5, length))
    row = fresh(2 * BLOCK, width(wide), q).reshape((BLOCK, 2, width(wide)))
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
            _take_keys(count, q, k, a, b, w, t0, h, column, narrow)
            # Some vectors of values after the others.
            for d in range(0, values, width(wide)):
                rest = min(width(wide), values - d)
                row[:] = 0
                take(count, v, t0, h, d, rest, row, zero + V, narrow)
                if rest > width(narrow):
                    _steps(count, column, row, state, d, wide)
                else:
                    _steps(count, column, row, state, d, narrow)
                give(count, row, zero + U, o, t0, h, d, rest, narrow)
        put(state, final[s, h], keys, values, narrow)


@jit()
def _states(count, column, row, before, d, path, grads, like):
    """The states of `count` steps for four values from d on, what b reads there, and dq = S_t do.

    `path` gets those before each step, four rows each, and the last one.
    """
    use_wide_vectors()
    r0, r1, r2, r3 = like, like, like, like
    for c in range(0, path.shape[1], width(like)):
        s0, s1, s2, s3 = load4(like, before, d, c)
        store4(s0, s1, s2, s3, path, 0, c)
        b = load(like, column, 0, B, c)
        r0, r1, r2, r3 = fma(s0, b, r0), fma(s1, b, r1), fma(s2, b, r2), fma(s3, b, r3)
    for i in range(count):
        store(totals(r0, r1, r2, r3), row, i, R, d)
        r0, r1, r2, r3 = like, like, like, like
        for c in range(0, path.shape[1], width(like)):
            k, a, w = load(like, column, i, K, c), load(like, column, i, A, c), load(like, column, i, W, c)
            s0, s1, s2, s3 = load4(like, path, 4 * i, c)
            s0 = fma(spread(like, row, i, V, d), k, fma(spread(like, row, i, R, d), a, w * s0))
            s1 = fma(spread(like, row, i, V, d + 1), k, fma(spread(like, row, i, R, d + 1), a, w * s1))
            s2 = fma(spread(like, row, i, V, d + 2), k, fma(spread(like, row, i, R, d + 2), a, w * s2))
            s3 = fma(spread(like, row, i, V, d + 3), k, fma(spread(like, row, i, R, d + 3), a, w * s3))
            store4(s0, s1, s2, s3, path, 4 * i + 4, c)
            b = load(like, column, i + 1, B, c)
            r0, r1, r2, r3 = fma(s0, b, r0), fma(s1, b, r1), fma(s2, b, r2), fma(s3, b, r3)
            dq = fma(spread(like, row, i, U, d), s0, load(like, grads, i, Q, c))
            dq = fma(spread(like, row, i, U, d + 1), s1, dq)
            dq = fma(spread(like, row, i, U, d + 2), s2, dq)
            store(fma(spread(like, row, i, U, d + 3), s3, dq), grads, i, Q, c)


@jit()
def _back(count, column, row, path, Z, d, moved, grads, like):
    """Back through `count` steps: Z comes in as the gradient of the last state, and goes out as that of the first.

    With Z_t, which is q do^T more than what later steps say: dk = Z v, da = Z r, db = S_{t-1} dr for dr = Z^T a, and
    the sum over values of Z S_{t-1}, which is the gradient of the decay. What goes back is w Z + b dr^T.
    """
    use_wide_vectors()
    for i in range(count - 1, -1, -1):
        # The gradients of what is written and of what b reads: dx = Z^T k and dr.
        x0, x1, x2, x3, r0, r1, r2, r3 = like, like, like, like, like, like, like, like
        for c in range(0, path.shape[1], width(like)):
            q, k, a = load(like, column, i, Q, c), load(like, column, i, K, c), load(like, column, i, A, c)
            g0, g1, g2, g3 = load4(like, Z, d, c)
            g0, g1 = fma(spread(like, row, i, U, d), q, g0), fma(spread(like, row, i, U, d + 1), q, g1)
            g2, g3 = fma(spread(like, row, i, U, d + 2), q, g2), fma(spread(like, row, i, U, d + 3), q, g3)
            store4(g0, g1, g2, g3, Z, d, c)
            x0, x1, x2, x3 = fma(g0, k, x0), fma(g1, k, x1), fma(g2, k, x2), fma(g3, k, x3)
            r0, r1, r2, r3 = fma(g0, a, r0), fma(g1, a, r1), fma(g2, a, r2), fma(g3, a, r3)
        store(totals(x0, x1, x2, x3), moved, i, DV, d)
        store(totals(r0, r1, r2, r3), moved, i, DR, d)
        # All others, and the gradient of the state before.
        for c in range(0, path.shape[1], width(like)):
            b, w = load(like, column, i, B, c), load(like, column, i, W, c)
            dk, da = load(like, grads, i, K, c), load(like, grads, i, A, c)
            db, dw = load(like, grads, i, B, c), load(like, grads, i, W, c)
            g0, g1, g2, g3 = load4(like, Z, d, c)
            p0, p1, p2, p3 = load4(like, path, 4 * i, c)
            e0, e1 = spread(like, moved, i, DR, d), spread(like, moved, i, DR, d + 1)
            e2, e3 = spread(like, moved, i, DR, d + 2), spread(like, moved, i, DR, d + 3)
            dk = fma(spread(like, row, i, V, d + 1), g1, fma(spread(like, row, i, V, d), g0, dk))
            dk = fma(spread(like, row, i, V, d + 3), g3, fma(spread(like, row, i, V, d + 2), g2, dk))
            da = fma(spread(like, row, i, R, d + 1), g1, fma(spread(like, row, i, R, d), g0, da))
            da = fma(spread(like, row, i, R, d + 3), g3, fma(spread(like, row, i, R, d + 2), g2, da))
            db = fma(e3, p3, fma(e2, p2, fma(e1, p1, fma(e0, p0, db))))
            dw = fma(p3, g3, fma(p2, g2, fma(p1, g1, fma(p0, g0, dw))))
            g0, g1, g2, g3 = fma(e0, b, w * g0), fma(e1, b, w * g1), fma(e2, b, w * g2), fma(e3, b, w * g3)
            store(dk, grads, i, K, c)
            store(da, grads, i, A, c)
            store(db, grads, i, B, c)
            store(dw, grads, i, W, c)
            store4(g0, g1, g2, g3, Z, d, c)


@jit()
def backward(
    first, last, heads, bounds, slots,
    q, k, v, a, b, w, initial, borders, do, dfinal, dq, dk, dv, da, db, dw, dinitial,
):  # fmt: skip
    use_wide_vectors()
    narrow, four, zero = registers(q, 1), lanes(q, 4), first - first
    keys, values = initial.shape[2:]
    # Beyond keys and values are zeros.
    padded_keys, padded_values = keys + width(narrow) - keys % width(narrow), (values + 3) // 4 * 4
    before, Z = fresh(padded_values, padded_keys, q), fresh(padded_values, padded_keys, q)
    path = fresh(4 * (BLOCK + 1), padded_keys, q)
    column = fresh(5 * (BLOCK + 1), padded_keys, q).reshape((BLOCK + 1, 5, padded_keys))
    grads = fresh(5 * BLOCK, padded_keys, q).reshape((BLOCK, 5, padded_keys))
    row = fresh(3 * BLOCK, padded_values, q).reshape((BLOCK, 3, padded_values))
    moved = fresh(2 * BLOCK, padded_values, q).reshape((BLOCK, 2, padded_values))
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
            _take_keys(count, q, k, a, b, w, t0, h, column, narrow)
            for j in range(2):
                take(count, (v, do)[j], t0, h, zero, values, row, j, narrow)
            # Its states and the way back, four values after the others.
            grads[:] = 0
            for d in range(0, values, 4):
                _states(count, column, row, before, d, path, grads, narrow)
                _back(count, column, row, path, Z, d, moved, grads, narrow)
            # Its gradients.
            for j in range(5):
                give(count, grads, j, (dq, dk, da, db, dw)[j], t0, h, zero, keys, narrow)
            give(count, moved, zero + DV, dv, t0, h, zero, values, narrow)
        turn_over(Z, dinitial[s, h], values, keys, four)
