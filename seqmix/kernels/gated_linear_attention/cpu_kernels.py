"""Numba kernels for gated linear attention: a tile of the state of one head stays in registers for `BLOCK` steps.

The forward pass takes four keys by a vector of values through a block of steps, and keeps the state (K, V) before every
`CHUNK`-th step (the borders). The backward pass goes from there to the state before each block, and for four values by
a vector of keys, transposed, so that sums over values fill whole vectors, through the block and back.
Letters: L rows of all sequences, S sequences, H heads, K and V widths, G = K, 1 or 0 decays for each head. Queries and
keys may be those of one head, which all then share; the gradients are of every head.
"""

from seqmix.kernels._lanes import (
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
from seqmix.kernels._tiles import fresh, give, put, take, total, turn_over

LANES = "affa56c3"  # of `_lanes.py`, which says why
TILES = "697d064e"  # of `_tiles.py`
CHUNK = 128  # a border is as large as a whole state: few of them
BLOCK = 32  # what a tile reads in so many steps stays in the cache next to the processor
A, K, Q = range(3)  # decay, key and query: rows of `column`; their gradients: of `grads`
V, U = range(2)  # value, and output or its gradient: rows of `row`


# For every number that is written into a call Numba compiles a function anew: calls take variables, such as `zero`.
@jit()
def _take_keys(count, decay, k, q, t, h, column, like):
    """What `count` steps have for every key; ones stay where nothing decays."""
    keys, gates, rows, zero = k.shape[2], decay.shape[2], (decay, k, q), t - t
    for j in range(A if gates > 1 else K, 3):
        # One head may be that of all.
        own = h if rows[j].shape[1] > 1 else zero
        take(count, rows[j], t, own, zero, keys, column, j, like)
    if gates == 1:
        for i in range(count):
            a = decay[t + i, h, 0]
            for c in range(keys):
                column[i, A, c] = a


@jit()
def _steps(count, column, row, state, d, like):
    """`count` steps of all keys and of the values from d on, as many as `like` has."""
    use_wide_vectors()
    for c in range(0, len(state), 4):
        s0, s1, s2, s3 = load4(like, state, c, d)
        for i in range(count):
            x = load(like, row, i, V, 0)
            s0 = fma(spread(like, column, i, K, c), x, spread(like, column, i, A, c) * s0)
            s1 = fma(spread(like, column, i, K, c + 1), x, spread(like, column, i, A, c + 1) * s1)
            s2 = fma(spread(like, column, i, K, c + 2), x, spread(like, column, i, A, c + 2) * s2)
            s3 = fma(spread(like, column, i, K, c + 3), x, spread(like, column, i, A, c + 3) * s3)
            read01 = fma(spread(like, column, i, Q, c), s0, spread(like, column, i, Q, c + 1) * s1)
            read23 = fma(spread(like, column, i, Q, c + 3), s3, spread(like, column, i, Q, c + 2) * s2)
            store(load(like, row, i, U, 0) + (read01 + read23), row, i, U, 0)
        store4(s0, s1, s2, s3, state, c, d)


@jit()
def forward(first, last, heads, bounds, slots, q, k, v, decay, initial, o, final, borders):
    use_wide_vectors()
    wide, narrow, zero = registers(q, 2), registers(q, 1), first - first
    keys, values = initial.shape[2:]
    padded = (keys + 3) // 4 * 4
    length = padded + width(wide) - padded % width(wide) + width(narrow)
    state = fresh(padded, values + width(wide) - values % width(wide), q)
    column = fresh(3 * BLOCK, length, q).reshape((BLOCK, 3, length))
    row = fresh(2 * BLOCK, width(wide), q).reshape((BLOCK, 2, width(wide)))
    column[:, A] = 1
    for item in range(first, last):
        s, h = item // heads, item % heads
        start, end = bounds[s], bounds[s + 1]
        put(initial[s, h], state, keys, values, narrow)
        state[keys:] = 0  # where the last item wrote 0 times its values, which need not be finite
        for t0 in range(start, end, BLOCK):
            # What a block has for every key.
            count = min(BLOCK, end - t0)
            if t0 > start and (t0 - start) % CHUNK == 0:
                put(state, borders[slots[s] + (t0 - start) // CHUNK - 1, h], keys, values, narrow)
            _take_keys(count, decay, k, q, t0, h, column, narrow)
            # A vector of values after the other.
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
def _advance(count, column, row, before, after, c, like):
    """All values and the keys from c on, as many as `like` has, `count` steps on."""
    use_wide_vectors()
    for d in range(0, len(before), 4):
        s0, s1, s2, s3 = load4(like, before, d, c)
        for i in range(count):
            a, k = load(like, column, i, A, c), load(like, column, i, K, c)
            s0 = fma(spread(like, row, i, V, d), k, a * s0)
            s1 = fma(spread(like, row, i, V, d + 1), k, a * s1)
            s2 = fma(spread(like, row, i, V, d + 2), k, a * s2)
            s3 = fma(spread(like, row, i, V, d + 3), k, a * s3)
        store4(s0, s1, s2, s3, after, d, c)


@jit()
def _back(count, column, row, path, state, Z, c, grads, dv, like):
    """All values and the keys from c on, as many as `like` has: the states of `count` steps, and back through them.

    grads: dk = Z v; the sum over values of Z S_{t-1}, which is the gradient of the decay; dq = S_t do.
    """
    use_wide_vectors()
    narrow, four = registers(path, 1), lanes(path, 4)
    for d in range(0, len(state), 4):
        # The states again: `path` has those before each step.
        s0, s1, s2, s3 = load4(like, state, d, c)
        for i in range(count):
            store4(s0, s1, s2, s3, path, 4 * i, 0)
            a, k = load(like, column, i, A, c), load(like, column, i, K, c)
            s0 = fma(spread(like, row, i, V, d), k, a * s0)
            s1 = fma(spread(like, row, i, V, d + 1), k, a * s1)
            s2 = fma(spread(like, row, i, V, d + 2), k, a * s2)
            s3 = fma(spread(like, row, i, V, d + 3), k, a * s3)
            dq = fma(spread(like, row, i, U, d), s0, load(like, grads, i, Q, c))
            dq = fma(spread(like, row, i, U, d + 1), s1, dq)
            dq = fma(spread(like, row, i, U, d + 2), s2, dq)
            store(fma(spread(like, row, i, U, d + 3), s3, dq), grads, i, Q, c)
        # Back: Z comes in as the gradient of S_t from later steps, and goes out as that of S_{t-1}.
        z0, z1, z2, z3 = load4(like, Z, d, c)
        for i in range(count - 1, -1, -1):
            a, k, q = load(like, column, i, A, c), load(like, column, i, K, c), load(like, column, i, Q, c)
            g0 = fma(spread(like, row, i, U, d), q, z0)
            g1 = fma(spread(like, row, i, U, d + 1), q, z1)
            g2 = fma(spread(like, row, i, U, d + 2), q, z2)
            g3 = fma(spread(like, row, i, U, d + 3), q, z3)
            dx = totals(fma(g0, k, narrow), fma(g1, k, narrow), fma(g2, k, narrow), fma(g3, k, narrow))
            store(load(four, dv, i, 0, d) + dx, dv, i, 0, d)
            dk = fma(spread(like, row, i, V, d), g0, load(like, grads, i, K, c))
            dk = fma(spread(like, row, i, V, d + 1), g1, dk)
            dk = fma(spread(like, row, i, V, d + 2), g2, dk)
            store(fma(spread(like, row, i, V, d + 3), g3, dk), grads, i, K, c)
            p0, p1, p2, p3 = load4(like, path, 4 * i, 0)
            da = fma(p0, g0, load(like, grads, i, A, c))
            da = fma(p1, g1, da)
            da = fma(p2, g2, da)
            store(fma(p3, g3, da), grads, i, A, c)
            z0, z1, z2, z3 = a * g0, a * g1, a * g2, a * g3
        store4(z0, z1, z2, z3, Z, d, c)


@jit()
def backward(
    first, last, heads, bounds, slots,
    q, k, v, decay, initial, borders, do, dfinal, dq, dk, dv, ddecay, dinitial,
):  # fmt: skip
    use_wide_vectors()
    wide, narrow, four = registers(q, 2), registers(q, 1), lanes(q, 4)
    keys, values = initial.shape[2:]
    gates, zero = decay.shape[2], first - first
    longest = min(CHUNK, len(q))
    # Beyond keys and values are zeros, and a decay of one. Lengths of rows that are no power of two keep steps apart in
    # the cache.
    padded_keys, padded_values = keys + width(wide) - keys % width(wide), (values + 3) // 4 * 4
    key_row, value_row = padded_keys + width(narrow), padded_values + width(narrow)
    blocks = (longest + BLOCK - 1) // BLOCK
    states = fresh(blocks * padded_values, padded_keys, q).reshape((blocks, padded_values, padded_keys))
    Z, path = fresh(padded_values, padded_keys, q), fresh(4 * BLOCK, width(wide), q)
    column = fresh(3 * longest, key_row, q).reshape((longest, 3, key_row))
    row = fresh(2 * longest, value_row, q).reshape((longest, 2, value_row))
    grads = fresh(3 * BLOCK, padded_keys, q).reshape((BLOCK, 3, padded_keys))
    moved = fresh(zero + BLOCK, padded_values, q).reshape((BLOCK, 1, padded_values))
    column[:, A] = 1
    for item in range(first, last):
        s, h = item // heads, item % heads
        start, end = bounds[s], bounds[s + 1]
        Z[:] = 0  # beyond keys and values, too, where the last item may have left what is not finite
        turn_over(dfinal[s, h], Z, keys, values, four)
        for chunk in range((end - start + CHUNK - 1) // CHUNK - 1, -1, -1):
            # What the chunk has for every key and value.
            t0 = start + chunk * CHUNK
            count = min(CHUNK, end - t0)
            border = borders[slots[s] + chunk - 1, h] if chunk > 0 else initial[s, h]
            turn_over(border, states[0], keys, values, four)
            _take_keys(count, decay, k, q, t0, h, column, narrow)
            for j in range(2):
                take(count, (v, do)[j], t0, h, zero, values, row, j, narrow)
            # The states before its blocks.
            last_block = (count - 1) // BLOCK
            for b in range(last_block):
                columns, rows = column[b * BLOCK :], row[b * BLOCK :]
                for c in range(0, keys, width(wide)):
                    if keys - c > width(narrow):
                        _advance(BLOCK, columns, rows, states[b], states[b + 1], c, wide)
                    else:
                        _advance(BLOCK, columns, rows, states[b], states[b + 1], c, narrow)
            # Block by block, a vector of keys after the other.
            for b in range(last_block, -1, -1):
                columns, rows = column[b * BLOCK :], row[b * BLOCK :]
                steps, t = min(BLOCK, count - b * BLOCK), t0 + b * BLOCK
                grads[:] = 0
                moved[:] = 0
                for c in range(0, keys, width(wide)):
                    if keys - c > width(narrow):
                        _back(steps, columns, rows, path, states[b], Z, c, grads, moved, wide)
                    else:
                        _back(steps, columns, rows, path, states[b], Z, c, grads, moved, narrow)
                # The block's gradients.
                for j in range(A if gates > 1 else K, 3):
                    give(steps, grads, j, (ddecay, dk, dq)[j], t, h, zero, keys, narrow)
                give(steps, moved, zero, dv, t, h, zero, values, narrow)
                if gates == 1:
                    for i in range(steps):
                        ddecay[t + i, h, 0] = total(grads, i, zero + A, narrow)
        turn_over(Z, dinitial[s, h], values, keys, four)
