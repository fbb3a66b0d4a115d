"""Numba kernels for the generalised delta rule: the state of one head stays in the cache while time goes by.

As for the delta rule, the recurrence costs as few multiplications as its chunk form and keeps their order. The forward
pass walks the state (K, V) four keys at a time, once for what b reads and once for the new state, and keeps it before
every `CHUNK`-th step (the borders); the backward pass recomputes the others from there, transposed to (V, K).
Letters: L rows of all sequences, S sequences, H heads, K and V widths.
"""

from functools import partial

import numpy as np
from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels._numba import copy, jit, use_wide_vectors

OP = "dplr_delta_rule"
CHUNK = 32
Q, K, A, B, W = range(5)  # rows of `column`: what one step has for every key


@jit()
def _load(q, k, a, b, w, t, h, column):
    # A loop: Numba's own assignment to a slice costs ten times as much for vectors this short.
    for c in range(q.shape[2]):
        column[Q, c] = q[t, h, c]
        column[K, c] = k[t, h, c]
        column[A, c] = a[t, h, c]
        column[B, c] = b[t, h, c]
        column[W, c] = w[t, h, c]


@jit()
def _forward(first, last, heads, bounds, slots, q, k, v, a, b, w, initial, o, final, borders):
    use_wide_vectors()
    keys, values = initial.shape[2:]
    padded = (keys + 3) // 4 * 4
    state = np.zeros((padded, values), q.dtype)
    column = np.zeros((5, padded), q.dtype)
    nothing = np.zeros((2, values), q.dtype)
    moved = np.zeros((2, values), q.dtype)  # what b reads for this step and for the next one
    for item in range(first, last):
        s, h = item // heads, item % heads
        start, end = bounds[s], bounds[s + 1]
        copy(initial[s, h], state[:keys])
        state[keys:] = 0  # where the last item wrote 0 times its values, which need not be finite
        # One pass a step: it makes S_t and reads it for the queries and for the next step's b. A step before the first
        # one, which changes nothing, reads the initial state with the very same code.
        column[:] = 0
        column[W] = 1
        moved[:] = 0
        for t in range(start - 1, end):
            v_t, o_t = nothing[0], nothing[1]
            if t >= start:
                if t > start and (t - start) % CHUNK == 0:
                    copy(state[:keys], borders[slots[s] + (t - start) // CHUNK - 1, h])
                _load(q, k, a, b, w, t, h, column)
                v_t, o_t = v[t, h], o[t, h]
            for c in range(keys):
                column[B, c] = b[min(t + 1, end - 1), h, c] if end > start else column[B, c]
            # What b reads of S_{t-1} was found a step ago, what it reads of S_t is found now.
            read, following = moved[(t - start) % 2], moved[(t - start + 1) % 2]
            for d in range(values):
                following[d] = 0
                o_t[d] = 0
            # The new state and its readers, four rows at a time.
            for c in range(0, padded, 4):
                w0, w1, w2, w3 = column[W, c], column[W, c + 1], column[W, c + 2], column[W, c + 3]
                a0, a1, a2, a3 = column[A, c], column[A, c + 1], column[A, c + 2], column[A, c + 3]
                b0, b1, b2, b3 = column[B, c], column[B, c + 1], column[B, c + 2], column[B, c + 3]
                k0, k1, k2, k3 = column[K, c], column[K, c + 1], column[K, c + 2], column[K, c + 3]
                q0, q1, q2, q3 = column[Q, c], column[Q, c + 1], column[Q, c + 2], column[Q, c + 3]
                s0, s1, s2, s3 = state[c], state[c + 1], state[c + 2], state[c + 3]
                for d in range(values):
                    r, x = read[d], v_t[d]
                    s0[d] = w0 * s0[d] + a0 * r + k0 * x
                    s1[d] = w1 * s1[d] + a1 * r + k1 * x
                    s2[d] = w2 * s2[d] + a2 * r + k2 * x
                    s3[d] = w3 * s3[d] + a3 * r + k3 * x
                    o_t[d] += (q0 * s0[d] + q1 * s1[d]) + (q2 * s2[d] + q3 * s3[d])
                    following[d] += (b0 * s0[d] + b1 * s1[d]) + (b2 * s2[d] + b3 * s3[d])
        copy(state[:keys], final[s, h])


@jit("reassoc")
def _recompute(column, v_t, do_t, before, here, read, dq):
    """One step of the transposed state (V, K), what was read, and dq = S do."""
    use_wide_vectors()
    k, a, b, w = column[K], column[A], column[B], column[W]
    for c in range(len(dq)):
        dq[c] = 0
    zero = v_t[0] - v_t[0]
    for d in range(len(v_t)):
        p, s, u, x = before[d], here[d], do_t[d], v_t[d]
        r = zero
        for c in range(len(dq)):
            r += p[c] * b[c]
        read[d] = r
        for c in range(len(dq)):
            y = w[c] * p[c] + a[c] * r + k[c] * x
            s[c] = y
            dq[c] += y * u


@jit("reassoc")
def _adjoint(column, v_t, do_t, before, read, Z, dv, grads):
    """One step back: Z comes in as the gradient of S_t from later steps and goes out as that of S_{t-1}.

    `grads`, rows as in `column`: dk = Z v, da = Z r, db = S_{t-1} dr with dr = Z^T a, and the sum over values of
    Z S_{t-1}, which is the gradient of the decay. What goes out is w Z + b dr^T.
    """
    use_wide_vectors()
    q, k, a, b, w = column[Q], column[K], column[A], column[B], column[W]
    dk, da, db, dw = grads[K], grads[A], grads[B], grads[W]
    for c in range(len(k)):
        dk[c] = 0
        da[c] = 0
        db[c] = 0
        dw[c] = 0
    zero = v_t[0] - v_t[0]
    # One row at a time: LLVM guards every pair of pointers that may overlap, and more rows cost more than they save.
    for d in range(len(v_t)):
        z, p, u, x, r = Z[d], before[d], do_t[d], v_t[d], read[d]
        dx, dr = zero, zero
        for c in range(len(k)):
            g = z[c] + u * q[c]
            z[c] = g
            dx += g * k[c]
            dr += g * a[c]
        dv[d] = dx
        for c in range(len(k)):
            g = z[c]
            dk[c] += g * x
            da[c] += g * r
            db[c] += p[c] * dr
            dw[c] += g * p[c]
            z[c] = w[c] * g + b[c] * dr


@jit()
def _backward(
    first, last, heads, bounds, slots,
    q, k, v, a, b, w, initial, borders, do, dfinal, dq, dk, dv, da, db, dw, dinitial,
):  # fmt: skip
    keys, values = initial.shape[2:]
    path = np.zeros((CHUNK + 1, values, keys), q.dtype)  # path[i + 1] is the state after step i of a chunk
    read = np.zeros((CHUNK, values), q.dtype)
    Z = np.zeros((values, keys), q.dtype)
    column = np.zeros((5, keys), q.dtype)
    grads = np.zeros((5, keys), q.dtype)
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
                _load(q, k, a, b, w, t, h, column)
                _recompute(column, v[t, h], do[t, h], path[i], path[i + 1], read[i], dq[t, h])
            for i in range(count - 1, -1, -1):
                t = t0 + i
                _load(q, k, a, b, w, t, h, column)
                _adjoint(column, v[t, h], do[t, h], path[i], read[i], Z, dv[t, h], grads)
                for c in range(keys):
                    dk[t, h, c] = grads[K, c]
                    da[t, h, c] = grads[A, c]
                    db[t, h, c] = grads[B, c]
                    dw[t, h, c] = grads[W, c]
        copy(Z.T, dinitial[s, h])


border_shape = partial(_borders.border_shape, CHUNK)


def forward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_w: Tensor, initial_state: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """o (B, T, H, V), the final state (S, H, K, V) and the borders in one row; all of one type."""
    inputs = (q, k, v, a, b, log_w.exp())
    return _borders.walk_heads(_forward, OP, CHUNK, 10, inputs, initial_state, cu_seqlens)


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_w: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, a, b, log_w and the initial state; the adjoint of the recurrence, step by step."""
    inputs = (q, k, v, a, b, log_w.exp())
    found = _borders.walk_heads_back(_backward, OP, CHUNK, 30, (do, dfinal), inputs, initial_state, borders, cu_seqlens)
    (*gradients, ddecay), dinitial = found
    return *gradients, ddecay.mul_(inputs[-1]), dinitial
