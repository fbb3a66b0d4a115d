"""Numba kernels for gated linear attention: the state of one head stays in the cache while time goes by.

On a CPU the recurrence is its own best form: with chunks of 64 the matrix form needs as many multiplications for
K = V = 64 and gains nothing by them, and it cannot take decays per channel without splitting the chunk again. The
forward pass walks the state (K, V) four keys at a time and keeps it before every `CHUNK`-th step (the borders); the
backward pass recomputes the others from there, transposed to (V, K), so that sums over values fill whole vectors.
Letters: L rows of all sequences, S sequences, H heads, K and V widths, G = K, 1 or 0 decays for each head.
"""

from functools import partial

import numpy as np
from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels._numba import copy, jit, use_wide_vectors

OP = "gated_linear_attention"
CHUNK = 32


@jit()
def _load(decay, t, h, out):
    """The decays of one step, one for each key; `out` holds ones and keeps them where nothing decays."""
    gates = decay.shape[2]
    if gates == 1:
        for c in range(len(out)):
            out[c] = decay[t, h, 0]
    elif gates > 1:
        for c in range(gates):
            out[c] = decay[t, h, c]


@jit()
def _forward(first, last, heads, bounds, slots, q, k, v, decay, initial, o, final, borders):
    use_wide_vectors()
    keys, values = initial.shape[2:]
    padded = (keys + 3) // 4 * 4
    state = np.zeros((padded, values), q.dtype)
    column = np.zeros((3, padded), q.dtype)  # decay, k, q
    column[0] = 1
    for item in range(first, last):
        s, h = item // heads, item % heads
        start = bounds[s]
        copy(initial[s, h], state[:keys])
        state[keys:] = 0  # where the last item wrote 0 times its values, which need not be finite
        for t in range(start, bounds[s + 1]):
            if t > start and (t - start) % CHUNK == 0:
                copy(state[:keys], borders[slots[s] + (t - start) // CHUNK - 1, h])
            _load(decay, t, h, column[0])
            copy(k[t, h], column[1])
            copy(q[t, h], column[2])
            v_t, o_t = v[t, h], o[t, h]
            for d in range(values):
                o_t[d] = 0
            for c in range(0, padded, 4):
                a0, a1, a2, a3 = column[0, c], column[0, c + 1], column[0, c + 2], column[0, c + 3]
                k0, k1, k2, k3 = column[1, c], column[1, c + 1], column[1, c + 2], column[1, c + 3]
                q0, q1, q2, q3 = column[2, c], column[2, c + 1], column[2, c + 2], column[2, c + 3]
                s0, s1, s2, s3 = state[c], state[c + 1], state[c + 2], state[c + 3]
                for d in range(values):
                    x = v_t[d]
                    s0[d] = a0 * s0[d] + k0 * x
                    s1[d] = a1 * s1[d] + k1 * x
                    s2[d] = a2 * s2[d] + k2 * x
                    s3[d] = a3 * s3[d] + k3 * x
                    o_t[d] += (q0 * s0[d] + q1 * s1[d]) + (q2 * s2[d] + q3 * s3[d])
        copy(state[:keys], final[s, h])


@jit()
def _recompute(v_t, column, before, here):
    """One step of the transposed state (V, K). column: decay, k."""
    use_wide_vectors()
    a, k = column[0], column[1]
    for d in range(len(v_t)):
        x, p, s = v_t[d], before[d], here[d]
        for c in range(len(a)):
            s[c] = a[c] * p[c] + k[c] * x


@jit("reassoc")
def _adjoint(v_t, do_t, column, before, Z, dv, grads):
    """One step back. column: decay, k, q. Z comes in as the gradient of S_t from later steps, goes out of S_{t-1}.

    grads: dk = Z v; the sum over values of Z S_{t-1}, which is the gradient of the decay; dq = S_t do.
    """
    use_wide_vectors()
    a, k, q = column[0], column[1], column[2]
    dk, da, dq = grads[0], grads[1], grads[2]
    for c in range(len(a)):
        dk[c] = 0
        da[c] = 0
        dq[c] = 0
    zero = v_t[0] - v_t[0]
    written = zero
    # One row at a time: LLVM guards every pair of pointers that may overlap, and more rows cost more than they save.
    for d in range(len(v_t)):
        x, u, z, p = v_t[d], do_t[d], Z[d], before[d]
        total = zero
        written += x * u
        for c in range(len(a)):
            g = z[c] + u * q[c]
            total += g * k[c]
            dk[c] += g * x
            da[c] += g * p[c]
            dq[c] += p[c] * u
            z[c] = a[c] * g
        dv[d] = total
    for c in range(len(a)):
        dq[c] = a[c] * dq[c] + k[c] * written


@jit()
def _backward(
    first, last, heads, bounds, slots,
    q, k, v, decay, initial, borders, do, dfinal, dq, dk, dv, ddecay, dinitial,
):  # fmt: skip
    keys, values = initial.shape[2:]
    gates = decay.shape[2]
    path = np.zeros((CHUNK, values, keys), q.dtype)  # the states before each step of a chunk
    Z = np.zeros((values, keys), q.dtype)
    column = np.ones((3, keys), q.dtype)  # decay, k, q
    grads = np.zeros((3, keys), q.dtype)
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
            for i in range(count - 1):
                _load(decay, t0 + i, h, column[0])
                copy(k[t0 + i, h], column[1])
                _recompute(v[t0 + i, h], column, path[i], path[i + 1])
            for i in range(count - 1, -1, -1):
                t = t0 + i
                _load(decay, t, h, column[0])
                copy(k[t, h], column[1])
                copy(q[t, h], column[2])
                _adjoint(v[t, h], do[t, h], column, path[i], Z, dv[t, h], grads)
                copy(grads[0], dk[t, h])
                copy(grads[2], dq[t, h])
                if gates == 1:
                    ddecay[t, h, 0] = grads[1].sum()
                elif gates > 1:
                    copy(grads[1], ddecay[t, h])
        copy(Z.T, dinitial[s, h])


border_slots = partial(_borders.border_slots, CHUNK)


def forward(
    q: Tensor, k: Tensor, v: Tensor, log_g: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), the final state (S, H, K, V) and the borders (slots, H, K, V); all of one type."""
    inputs = (q, k, v, log_g.exp())
    return _borders.walk_heads(_forward, OP, CHUNK, 5, inputs, initial_state, cu_seqlens)


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, log_g: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, log_g and the initial state.

    With Z_t = q_t do_t^T + e^{g_{t+1}} Z_{t+1}: dq_t = S_t do_t, dk_t = Z_t v_t, dv_t = Z_t^T k_t, and
    dg_t = e^{g_t} times the row sums of Z_t S_{t-1}. The shorter q dq - k dk, summed back over time, cancels.
    """
    inputs = (q, k, v, log_g.exp())
    found = _borders.walk_heads_back(_backward, OP, CHUNK, 16, (do, dfinal), inputs, initial_state, borders, cu_seqlens)
    (*gradients, ddecay), dinitial = found
    return *gradients, ddecay.mul_(inputs[-1]), dinitial
