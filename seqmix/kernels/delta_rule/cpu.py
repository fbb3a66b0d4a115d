"""Numba kernels for the delta rule: the state of one head stays in the cache while time goes by.

The matrix form of a chunk (the inverse of a triangular matrix, Yang et al. 2024, section 3) exists for the sake of
matrix units; on a CPU the recurrence costs as few multiplications, keeps their order, and has no inverse that could
lose digits. The forward pass walks the state (K, V) four keys at a time and keeps it before every `CHUNK`-th step
(the borders); the backward pass recomputes the others from there, transposed to (V, K), one value after another.
Letters: L rows of all sequences, S sequences, H heads, K and V widths, G = 1 or 0 decays for each head.
"""

from functools import partial

import numpy as np
from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels._numba import copy, jit, use_wide_vectors

OP = "delta_rule"
CHUNK = 32


@jit()
def _forward(first, last, heads, bounds, slots, q, k, v, beta, decay, initial, o, final, borders):
    use_wide_vectors()
    keys, values = initial.shape[2:]
    padded = (keys + 3) // 4 * 4
    state = np.zeros((padded, values), q.dtype)
    column = np.zeros((2, padded), q.dtype)  # k, q
    write = np.zeros(values, q.dtype)
    one = q.dtype.type(1)
    for item in range(first, last):
        s, h = item // heads, item % heads
        start = bounds[s]
        copy(initial[s, h], state[:keys])
        state[keys:] = 0  # where the last item wrote 0 times its values, which need not be finite
        for t in range(start, bounds[s + 1]):
            if t > start and (t - start) % CHUNK == 0:
                copy(state[:keys], borders[slots[s] + (t - start) // CHUNK - 1, h])
            a = decay[t, h, 0] if decay.shape[2] else one
            b = beta[t, h]
            copy(k[t, h], column[0])
            copy(q[t, h], column[1])
            v_t, o_t = v[t, h], o[t, h]
            for d in range(values):
                write[d] = 0
                o_t[d] = 0
            # What the keys read of the state, four rows at a time: S^T k.
            for c in range(0, padded, 4):
                k0, k1, k2, k3 = column[0, c], column[0, c + 1], column[0, c + 2], column[0, c + 3]
                s0, s1, s2, s3 = state[c], state[c + 1], state[c + 2], state[c + 3]
                for d in range(values):
                    write[d] += (k0 * s0[d] + k1 * s1[d]) + (k2 * s2[d] + k3 * s3[d])
            # What is written: beta (v - a S^T k).
            for d in range(values):
                write[d] = b * (v_t[d] - a * write[d])
            # The new state, and what the queries read of it.
            for c in range(0, padded, 4):
                k0, k1, k2, k3 = column[0, c], column[0, c + 1], column[0, c + 2], column[0, c + 3]
                q0, q1, q2, q3 = column[1, c], column[1, c + 1], column[1, c + 2], column[1, c + 3]
                s0, s1, s2, s3 = state[c], state[c + 1], state[c + 2], state[c + 3]
                for d in range(values):
                    x = write[d]
                    s0[d] = a * s0[d] + k0 * x
                    s1[d] = a * s1[d] + k1 * x
                    s2[d] = a * s2[d] + k2 * x
                    s3[d] = a * s3[d] + k3 * x
                    o_t[d] += (q0 * s0[d] + q1 * s1[d]) + (q2 * s2[d] + q3 * s3[d])
        copy(state[:keys], final[s, h])


@jit("reassoc")
def _recompute(a, b, k, v_t, do_t, before, here, read, write, dq):
    """One step of the transposed state (V, K), what was read and written, and dq = S do."""
    use_wide_vectors()
    for c in range(len(dq)):
        dq[c] = 0
    zero = a - a
    for d in range(len(v_t)):
        p, s, u = before[d], here[d], do_t[d]
        total = zero
        for c in range(len(dq)):
            total += p[c] * k[c]
        read[d] = a * total
        w = b * (v_t[d] - read[d])
        write[d] = w
        for c in range(len(dq)):
            x = a * p[c] + w * k[c]
            s[c] = x
            dq[c] += x * u


@jit("reassoc")
def _adjoint(a, b, k, q, v_t, do_t, before, read, write, Z, dk, dv, dpart):
    """One step back: Z comes in as the gradient of S_t from later steps and goes out as that of S_{t-1}.

    With P = a S_{t-1}: dwrite = Z^T k, dP = Z - beta k dwrite^T, dk = Z write - beta P dwrite. Returns the gradient
    of beta; `dpart` (K,) receives the parts of that of log a, the sum of dP P.
    """
    use_wide_vectors()
    for c in range(len(k)):
        dk[c] = 0
        dpart[c] = 0
    zero = a - a
    dbeta = zero
    # One row at a time: LLVM guards every pair of pointers that may overlap, and more rows cost more than they save.
    for d in range(len(v_t)):
        z, p, u, w = Z[d], before[d], do_t[d], write[d]
        total = zero
        for c in range(len(k)):
            g = z[c] + u * q[c]
            z[c] = g
            total += g * k[c]
        dbeta += total * (v_t[d] - read[d])
        e = b * total
        dv[d] = e
        f = a * e
        for c in range(len(k)):
            g = z[c] - e * k[c]
            dk[c] += z[c] * w - p[c] * f
            dpart[c] += g * p[c]
            z[c] = a * g
    return dbeta


@jit()
def _backward(
    first, last, heads, bounds, slots,
    q, k, v, beta, decay, initial, borders, do, dfinal, dq, dk, dv, dbeta, dlog, dinitial,
):  # fmt: skip
    keys, values = initial.shape[2:]
    path = np.zeros((CHUNK + 1, values, keys), q.dtype)  # path[i + 1] is the state after step i of a chunk
    moved = np.zeros((CHUNK, 2, values), q.dtype)  # what each step read and wrote
    Z = np.zeros((values, keys), q.dtype)
    dpart = np.zeros(keys, q.dtype)
    one = q.dtype.type(1)
    for item in range(first, last):
        s, h = item // heads, item % heads
        start, end = bounds[s], bounds[s + 1]
        copy(dfinal[s, h].T, Z)
        for chunk in range((end - start + CHUNK - 1) // CHUNK - 1, -1, -1):
            t0 = start + chunk * CHUNK
            count = min(CHUNK, end - t0)
            border = borders[slots[s] + chunk - 1, h] if chunk > 0 else initial[s, h]
            for d in range(values):
                for c in range(keys):
                    path[0, d, c] = border[c, d]
            for i in range(count):
                t = t0 + i
                a = decay[t, h, 0] if decay.shape[2] else one
                read, write = moved[i, 0], moved[i, 1]
                _recompute(a, beta[t, h], k[t, h], v[t, h], do[t, h], path[i], path[i + 1], read, write, dq[t, h])
            for i in range(count - 1, -1, -1):
                t = t0 + i
                a = decay[t, h, 0] if decay.shape[2] else one
                dbeta[t, h] = _adjoint(
                    a, beta[t, h], k[t, h], q[t, h], v[t, h], do[t, h], path[i], moved[i, 0], moved[i, 1], Z, dk[t, h],
                    dv[t, h], dpart,
                )  # fmt: skip
                if decay.shape[2]:
                    dlog[t, h, 0] = a * dpart.sum()
        copy(Z.T, dinitial[s, h])


border_shape = partial(_borders.border_shape, CHUNK)


def forward(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), the final state (S, H, K, V) and the borders in one row; all of one type."""
    inputs = (q, k, v, beta, log_g.exp())
    return _borders.walk_heads(_forward, OP, CHUNK, 8, inputs, initial_state, cu_seqlens)


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, beta, log_g and the initial state; the adjoint of the recurrence, step by step."""
    inputs = (q, k, v, beta, log_g.exp())
    found = _borders.walk_heads_back(_backward, OP, CHUNK, 24, (do, dfinal), inputs, initial_state, borders, cu_seqlens)
    return *found[0], found[1]
