"""Numba kernels for the selective scan: the (B, T, D, N) states exist only in registers and small scratch.

Channels are walked in blocks of `WIDTH` lanes, copied into padded scratch so that every inner loop has a constant
length and vectorises; the state index is a plain outer loop. The forward pass keeps the states before every
`CHUNK`-th step (the borders), the backward pass recomputes the others from there, one chunk at a time.
Letters: L rows of all sequences, S sequences, D channels, N state size.
"""

import numpy as np
from numba import types
from numba.extending import overload

from seqmix.kernels._numba import as_float32, as_int32, jit, use_wide_vectors

WIDTH = 64
CHUNK = 32


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
def forward(first, last, blocks, bounds, slots, x, dt, A, B, C, D, decay, initial, y, final, borders):
    # decay = (scale, shift): a = scale * e^{dt A} + shift.
    use_wide_vectors()
    channels, states = A.shape
    scale, shift = decay
    lanes = np.zeros((states, 2, WIDTH), x.dtype)  # A, s
    step = np.zeros((3, WIDTH), x.dtype)  # dt, dt x, y
    for item in range(first, last):
        s = item // blocks
        d0 = (item % blocks) * WIDTH
        d1 = min(d0 + WIDTH, channels)
        start = bounds[s]
        D_block = D[d0:d1]
        for d in range(d1 - d0):
            for n in range(states):
                lanes[n, 0, d] = A[d0 + d, n]
                lanes[n, 1, d] = initial[s, d0 + d, n]
        for t in range(start, bounds[s + 1]):
            if t > start and (t - start) % CHUNK == 0:
                for n in range(states):
                    border = borders[slots[s] + (t - start) // CHUNK - 1, n, d0:d1]
                    for d in range(d1 - d0):
                        border[d] = lanes[n, 1, d]
            x_t, dt_t, y_t = x[t, d0:d1], dt[t, d0:d1], y[t, d0:d1]
            for d in range(d1 - d0):
                step[0, d] = dt_t[d]
                step[1, d] = dt_t[d] * x_t[d]
                step[2, d] = D_block[d] * x_t[d]
            for n in range(states):
                b, c = B[t, n], C[t, n]
                for d in range(WIDTH):
                    a = scale * _exp(step[0, d] * lanes[n, 0, d]) + shift
                    value = a * lanes[n, 1, d] + b * step[1, d]
                    lanes[n, 1, d] = value
                    step[2, d] += c * value
            for d in range(d1 - d0):
                y_t[d] = step[2, d]
        for d in range(d1 - d0):
            for n in range(states):
                final[s, d0 + d, n] = lanes[n, 1, d]


@jit()
def _recompute(count, lane, steps, b, scale, shift, path):
    # path[k + 1] = (e_k, s_k) for one state index and the steps of a chunk; path[0] holds the state before it.
    use_wide_vectors()
    # Constants for LLVM, which otherwise sees possible overlaps and does not vectorise (ten times slower).
    assert lane.shape == (3, WIDTH) and steps.shape == (CHUNK, 6, WIDTH) and path.shape == (CHUNK + 1, 2, WIDTH)
    for k in range(count):
        step = steps[k]
        before, here = path[k], path[k + 1]
        for d in range(WIDTH):
            e = _exp(step[0, d] * lane[0, d])
            here[0, d] = e
            here[1, d] = (scale * e + shift) * before[1, d] + b[k] * step[1, d]


@jit("reassoc")
def backward(
    first, last, groups, block_bounds, sequence_bounds, bounds, slots,
    x, dt, A, B, C, D, decay, initial, borders, dy, dfinal, dx, ddt, dA, dB, dC, dD, dinitial,
):  # fmt: skip
    # In one piece, and its arguments apart: with inner loops in functions of their own it takes up to three times as
    # long, and a tenth longer with its arguments in tuples.
    use_wide_vectors()
    channels, states = A.shape
    scale, shift = decay
    lanes = np.zeros((states, 3, WIDTH), x.dtype)  # A, carry, dA
    steps = np.zeros((CHUNK, 6, WIDTH), x.dtype)  # dt, u = dt x, dy, du, the exponent's part of ddt, x
    path = np.zeros((CHUNK + 1, 2, WIDTH), x.dtype)  # e, s
    column = np.zeros(CHUNK, x.dtype)
    direct = np.zeros((2, WIDTH), x.dtype)  # D, one chunk's part of dD
    zero = direct[0, 0]  # a literal would be a float64
    for item in range(first, last):
        q, c = item // groups, item % groups
        for block in range(block_bounds[c], block_bounds[c + 1]):
            d0 = block * WIDTH
            d1 = min(d0 + WIDTH, channels)
            width = d1 - d0
            dD_block = dD[q, d0:d1]
            # A block of channels.
            lanes[:] = 0
            steps[:] = 0
            path[:] = 0
            for d in range(width):
                direct[0, d] = D[d0 + d]
                for n in range(states):
                    lanes[n, 0, d] = A[d0 + d, n]
            for s in range(sequence_bounds[q], sequence_bounds[q + 1]):
                # A sequence of theirs, from what reaches its final state.
                start, end = bounds[s], bounds[s + 1]
                # In lanes without a channel, too: there the last sequence left 0 times C, which need not be finite.
                lanes[:, 1] = 0
                for d in range(width):
                    for n in range(states):
                        lanes[n, 1, d] = dfinal[s, d0 + d, n]
                for chunk in range((end - start + CHUNK - 1) // CHUNK - 1, -1, -1):
                    # A chunk: its inputs into lanes.
                    t0 = start + chunk * CHUNK
                    count = min(CHUNK, end - t0)
                    for k in range(count):
                        step = steps[k]
                        x_t, dt_t, dy_t = x[t0 + k, d0:d1], dt[t0 + k, d0:d1], dy[t0 + k, d0:d1]
                        for d in range(width):
                            step[0, d] = dt_t[d]
                            step[1, d] = dt_t[d] * x_t[d]
                            step[2, d] = dy_t[d]
                            step[3, d] = 0
                            step[4, d] = 0
                            step[5, d] = x_t[d]
                    # For one state index the states again, then the adjoint back through them.
                    for n in range(states):
                        lane = lanes[n]
                        border = borders[slots[s] + chunk - 1, n, d0:d1] if chunk > 0 else initial[s, d0:d1, n]
                        for d in range(width):
                            path[0, 1, d] = border[d]
                        for k in range(count):
                            column[k] = B[t0 + k, n]
                        _recompute(count, lane, steps, column, scale, shift, path)
                        for k in range(count - 1, -1, -1):
                            step = steps[k]
                            before, here = path[k], path[k + 1]
                            b_t, c_t = B[t0 + k, n], C[t0 + k, n]
                            db, dc = zero, zero
                            for d in range(WIDTH):
                                g = lane[1, d] + c_t * step[2, d]
                                db += g * step[1, d]
                                dc += step[2, d] * here[1, d]
                                e = scale * here[0, d]
                                dz = g * before[1, d] * e
                                step[3, d] += g * b_t
                                step[4, d] += dz * lane[0, d]
                                lane[2, d] += dz * step[0, d]
                                lane[1, d] = (e + shift) * g
                            dB[c, t0 + k, n] += db
                            dC[c, t0 + k, n] += dc
                    # The chunk's gradients of x, dt and D.
                    direct[1] = 0
                    for k in range(count):
                        step = steps[k]
                        dx_t, ddt_t = dx[t0 + k, d0:d1], ddt[t0 + k, d0:d1]
                        for d in range(width):
                            dx_t[d] = step[3, d] * step[0, d] + direct[0, d] * step[2, d]
                            ddt_t[d] = step[3, d] * step[5, d] + step[4, d]
                            direct[1, d] += step[2, d] * step[5, d]
                    for d in range(width):
                        dD_block[d] += direct[1, d]
                for d in range(width):
                    for n in range(states):
                        dinitial[s, d0 + d, n] = lanes[n, 1, d]
            for d in range(width):
                for n in range(states):
                    dA[q, d0 + d, n] = lanes[n, 2, d]
