"""Numba kernels for transitions that a token selects: its largest places, and the gradient of a softmax over places.

M = sum over k of weights[k] dictionary[k] is N^2 numbers for each token. They exist here for `TOGETHER` tokens and one
vector of columns at a time, next to the processor for all that happens to them. A work item is one vector of columns of
all tokens, so that no two threads add to one gradient of the dictionary; what items add to that of a token's weights is
summed after them, in their order. Letters: L tokens, K matrices, N states, W of them in a vector.
"""

import numpy as np
from numba import types
from numba.extending import overload

from seqmix.kernels._lanes import choose, fma, load, registers, spread, store, width
from seqmix.kernels._numba import as_float32, as_int32, jit, use_wide_vectors
from seqmix.kernels._tiles import fresh

LANES = "affa56c3"  # of `_lanes.py`, which says why
TILES = "697d064e"  # of `_tiles.py`
TOGETHER = 4  # tokens at once: each number of the dictionary is read once for all of them
ROWS = 32  # of g and of the dictionary at once: they stay in the nearest cache through all K matrices


def _exp(x):
    raise NotImplementedError("compiled code only")


@overload(_exp, inline="always")
def _exp_for(x):
    # Numba calls a scalar exp; this polynomial (Cephes' expf: x = n ln 2 + r) vectorises and is eight times as
    # fast. Adding 1.5 * 2^23 rounds to an integer, which the low bits then hold. A comparison with NaN is false,
    # so NaN stays. It must not be compiled with "reassoc".
    if x == types.float32:

        def exp_float32(x):
            y = np.float32(-88.0) if x < np.float32(-88.0) else x
            y = np.float32(89.0) if y > np.float32(89.0) else y
            shifted = y * np.float32(1.44269504) + np.float32(12583039.0)
            n = shifted - np.float32(12583039.0)
            r = (y - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
            q = r * r
            p = np.float32(1.9875691500e-4) * r + np.float32(1.3981999507e-3)
            p = p * q + (np.float32(8.3334519073e-3) * r + np.float32(4.1665795894e-2))
            p = p * q + (np.float32(1.6666665459e-1) * r + np.float32(5.0000001201e-1))
            p = (p * q + r) + np.float32(1.0)
            bits = np.int32(as_int32(shifted) << np.int32(23))
            return p * as_float32(bits)

        return exp_float32
    return lambda x: np.exp(x)


@jit()
def _columns(dictionary, j, count, columns):
    """columns[i, k] = dictionary[k, i, j : j + count]; zeros beyond."""
    matrices, states = dictionary.shape[:2]
    for k in range(matrices):
        for i in range(states):
            for c in range(count):
                columns[i, k, c] = dictionary[k, i, j + c]
            for c in range(count, columns.shape[2]):
                columns[i, k, c] = 0


@jit()
def _matrices(t, weights, columns, M, like):
    """M[i]: row i of four tokens' M, W numbers of each."""
    use_wide_vectors()
    for i in range(len(columns)):
        m0, m1, m2, m3 = like, like, like, like
        for k in range(weights.shape[1]):
            x = load(like, columns, i, k, 0)
            m0 = fma(spread(like, weights, t, k), x, m0)
            m1 = fma(spread(like, weights, t + 1, k), x, m1)
            m2 = fma(spread(like, weights, t + 2, k), x, m2)
            m3 = fma(spread(like, weights, t + 3, k), x, m3)
        store(m0, M, i, 0)
        store(m1, M, i, width(like))
        store(m2, M, i, 2 * width(like))
        store(m3, M, i, 3 * width(like))


@jit()
def _largest(M, row, numbers, r, like):
    """row[r]: where in each column of token r's M the largest number is, the first of equal ones."""
    use_wide_vectors()
    here = r * width(like)
    best, place = load(like, M, 0, here), like
    for i in range(1, len(M)):
        m = load(like, M, i, here)
        place = choose(m, best, spread(like, numbers, i), place)
        best = choose(m, best, m, best)
    store(place, row, r, 0)


@jit()
def select(first, last, weights, dictionary, index):
    use_wide_vectors()
    like = registers(weights, 2)
    matrices, states = dictionary.shape[:2]
    columns = fresh(states * matrices, width(like), weights).reshape((states, matrices, width(like)))
    M, places = fresh(states, TOGETHER * width(like), weights), fresh(TOGETHER, width(like), weights)
    numbers = np.arange(states).astype(weights.dtype)
    for item in range(first, last):
        j = item * width(like)
        count = min(width(like), states - j)
        _columns(dictionary, j, count, columns)
        for t in range(0, len(weights), TOGETHER):
            _matrices(t, weights, columns, M, like)
            for r in range(min(TOGETHER, len(index) - t)):
                _largest(M, places, numbers, r, like)
                for c in range(count):
                    index[t + r, j + c] = np.int32(places[r, c])


@jit()
def _powers(M):
    """e^M. A function of its own: elsewhere LLVM would guard against arrays that overlap."""
    use_wide_vectors()
    for i in range(M.shape[0]):
        for c in range(M.shape[1]):
            M[i, c] = _exp(M[i, c])


@jit()
def _add_to_rows(M, numbers, r, like):
    """Adds numbers[0] to every row of token r's M."""
    use_wide_vectors()
    here = r * width(like)
    number = load(like, numbers, 0, here)
    for i in range(len(M)):
        store(load(like, M, i, here) + number, M, i, here)


@jit()
def _sums(r, t, s, u, j, M, sums, like):
    """Sums over rows of token t + r's e^M and of e^M dP, where dP = Re(s conj(u))."""
    use_wide_vectors()
    here = r * width(like)
    real, imaginary = load(like, u, t + r, 0, j), load(like, u, t + r, 1, j)
    total, product = like, like
    for i in range(len(M)):
        e = load(like, M, i, here)
        total = total + e
        product = fma(fma(spread(like, s, t + r, 0, i), real, spread(like, s, t + r, 1, i) * imaginary), e, product)
    store(total, sums, 0, here)
    store(product, sums, 1, here)


@jit()
def _through_softmax(r, t, s, u, j, scale, M, like):
    """M's gradient in place of its e^M: P (dP - sum over rows of P dP).

    scale[0] is 1 / the sum over rows of e^M, scale[1] is - the sum over rows of P dP.
    """
    use_wide_vectors()
    here = r * width(like)
    real, imaginary = load(like, u, t + r, 0, j), load(like, u, t + r, 1, j)
    small, back = load(like, scale, 0, here), load(like, scale, 1, here)
    for i in range(len(M)):
        dP = fma(spread(like, s, t + r, 0, i), real, spread(like, s, t + r, 1, i) * imaginary)
        store(load(like, M, i, here) * small * (dP + back), M, i, here)


@jit()
def _to_weights(t, weights, columns, g, dcolumns, parts, like):
    """What the dictionary, and four tokens' weights, get of the gradients g of their M; `ROWS` of them at a time."""
    use_wide_vectors()
    wide = columns.shape[2]
    for start in range(0, len(g), ROWS):
        end = min(start + ROWS, len(g))
        for k in range(weights.shape[1]):
            w0, w1 = spread(like, weights, t, k), spread(like, weights, t + 1, k)
            w2, w3 = spread(like, weights, t + 2, k), spread(like, weights, t + 3, k)
            for c in range(0, wide, width(like)):
                d0, d1 = load(like, parts, k, 0, c), load(like, parts, k, 1, c)
                d2, d3 = load(like, parts, k, 2, c), load(like, parts, k, 3, c)
                for i in range(start, end):
                    x, dx = load(like, columns, i, k, c), load(like, dcolumns, i, k, c)
                    g0, g1 = load(like, g, i, c), load(like, g, i, wide + c)
                    g2, g3 = load(like, g, i, 2 * wide + c), load(like, g, i, 3 * wide + c)
                    d0, d1, d2, d3 = fma(g0, x, d0), fma(g1, x, d1), fma(g2, x, d2), fma(g3, x, d3)
                    store(fma(w3, g3, fma(w2, g2, fma(w1, g1, fma(w0, g0, dx)))), dcolumns, i, k, c)
                store(d0, parts, k, 0, c)
                store(d1, parts, k, 1, c)
                store(d2, parts, k, 2, c)
                store(d3, parts, k, 3, c)


@jit()
def straight_through(first, last, weights, dictionary, index, s, u, dweights, ddictionary):
    use_wide_vectors()
    like, narrow = registers(weights, 2), registers(weights, 1)
    matrices, states = dictionary.shape[:2]
    columns = fresh(states * matrices, width(like), weights).reshape((states, matrices, width(like)))
    dcolumns = fresh(states * matrices, width(like), weights).reshape((states, matrices, width(like)))
    parts = fresh(matrices * TOGETHER, width(like), weights).reshape((matrices, TOGETHER, width(like)))
    M, sums = fresh(states, TOGETHER * width(like), weights), fresh(2, TOGETHER * width(like), weights)
    for item in range(first, last):
        j = item * width(like)
        count = min(width(like), states - j)
        _columns(dictionary, j, count, columns)
        for i in range(states):
            for k in range(matrices):
                store(like, dcolumns, i, k, 0)
        for t in range(0, len(weights), TOGETHER):
            # e^(M - its column's largest), which `index` names.
            _matrices(t, weights, columns, M, like)
            for c in range(M.shape[1]):
                sums[0, c] = 0
            for r in range(TOGETHER):
                token = min(t + r, len(index) - 1)  # what fills up is the last one again
                for c in range(count):
                    sums[0, r * width(like) + c] = -M[index[token, j + c], r * width(like) + c]
            for r in range(TOGETHER):
                _add_to_rows(M, sums, r, like)
            _powers(M)
            # The gradient of M.
            for r in range(TOGETHER):
                _sums(r, t, s, u, j, M, sums, like)
            for c in range(M.shape[1]):
                sums[0, c] = 1 / sums[0, c]
                sums[1, c] = -sums[1, c] * sums[0, c]
            for r in range(TOGETHER):
                _through_softmax(r, t, s, u, j, sums, M, like)
            # From it to those of its factors, weights and dictionary.
            for k in range(matrices):
                for r in range(TOGETHER):
                    store(like, parts, k, r, 0)
            _to_weights(t, weights, columns, M, dcolumns, parts, narrow)
            for k in range(matrices):
                for r in range(TOGETHER):
                    total = parts[k, r, 0]
                    for c in range(1, width(like)):
                        total += parts[k, r, c]
                    dweights[item, t + r, k] = total
        for k in range(matrices):
            for i in range(states):
                for c in range(count):
                    ddictionary[k, i, j + c] = dcolumns[i, k, c]


@jit()
def vector(like):
    """How many columns are taken together."""
    return width(registers(like, 2))
