"""Numba kernels for the loop of M2RNN: a work item is one head of one sequence, whose state and W stay in the cache.

Sums run along values, in the order of keys and of rows of W, so that nothing depends on how a sequence is cut. The
forward pass keeps the state before every `CHUNK`-th step, the backward pass computes the others and their tanh again.
With G = dL/dH_t and U = H_{t-1} W + k v^T, Z = tanh(U):

    dU = (1 - f) G (1 - Z^2),  dk = dU v,  dv = dU^T k,  dW = H_{t-1}^T dU,  df = <G, H_{t-1} - Z>
    dL/dH_{t-1} = f G + dU W^T

Letters: L rows of all sequences, K keys, V values of a head.
"""

from functools import partial

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels._in_place import final_like
from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import copy, jit, use_wide_vectors
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import run

OP = "M2RNN"
CHUNK = 32

border_shape = partial(_borders.border_shape, CHUNK)


def _tanh(x):
    raise NotImplementedError("compiled code only")


@overload(_tanh, inline="always")
def _tanh_for(x):
    # Numba calls a scalar tanh; this ratio of polynomials (Eigen's ptanh) vectorises. Comparisons with NaN are false,
    # so NaN stays.
    if x == types.float32:

        def tanh_float32(x):
            y = np.float32(-7.90531110763549805) if x < np.float32(-7.90531110763549805) else x
            y = np.float32(7.90531110763549805) if y > np.float32(7.90531110763549805) else y
            q = y * y
            p = q * np.float32(-2.76076847742355e-16) + np.float32(2.00018790482477e-13)
            p = q * p + np.float32(-8.60467152213735e-11)
            p = q * p + np.float32(5.12229709037114e-08)
            p = q * p + np.float32(1.48572235717979e-05)
            p = q * p + np.float32(6.37261928875436e-04)
            p = q * p + np.float32(4.89352455891786e-03)
            r = q * np.float32(1.19825839466702e-06) + np.float32(1.18534705686654e-04)
            r = q * r + np.float32(2.26843463243900e-03)
            return y * p / (q * r + np.float32(4.89352518554385e-03))

        return tanh_float32
    return lambda x: np.tanh(x)


@jit()
def _step(k, v, f, W, before, after, Z):
    """The next state, and Z; `after` may be `before`."""
    use_wide_vectors()
    keys, values = before.shape
    one = before.dtype.type(1)
    for c in range(keys):
        u, h, s, x = Z[c], before[c], after[c], k[c]
        for d in range(values):
            u[d] = x * v[d]
        for j in range(values):
            y, weights = h[j], W[j]
            for d in range(values):
                u[d] += y * weights[d]
        for d in range(values):
            u[d] = _tanh(u[d])
            s[d] = f * h[d] + (one - f) * u[d]


@jit()
def _forward(first, last, heads, bounds, slots, q, k, v, f, W, initial, o, final, borders):
    keys, values = initial.shape[2:]
    state, Z = np.zeros((keys, values), q.dtype), np.zeros((keys, values), q.dtype)
    for item in range(first, last):
        s, h = item // heads, item % heads
        start = bounds[s]
        copy(initial[s, h], state)
        for t in range(start, bounds[s + 1]):
            if t > start and (t - start) % CHUNK == 0:
                copy(state, borders[slots[s] + (t - start) // CHUNK - 1, h])
            _step(k[t, h], v[t, h], f[t, h], W[h], state, state, Z)
            out = o[t, h]
            for d in range(values):
                out[d] = 0
            for c in range(keys):
                x = q[t, h, c]
                for d in range(values):
                    out[d] += x * state[c, d]
        copy(state, final[s, h])


@jit("reassoc")
def _adjoint(q, k, v, f, Wt, before, after, Z, g, clip, G, dU, dq, dk, dv, dW):
    """One step back: G comes in as the gradient of H_t from later steps, goes out as that of H_{t-1}; returns df."""
    use_wide_vectors()
    keys, values = G.shape
    zero, one = G.dtype.type(0), G.dtype.type(1)
    df = zero
    for d in range(values):
        dv[d] = 0
    for c in range(keys):
        z, s, p, row, u, x, y = Z[c], after[c], before[c], G[c], dU[c], q[c], k[c]
        read, write = zero, zero
        for d in range(values):
            read += s[d] * g[d]
            full = row[d] + x * g[d]
            row[d] = min(max(full, -clip), clip) if full == full else full
        for d in range(values):
            df += row[d] * (p[d] - z[d])
            u[d] = (one - f) * row[d] * (one - z[d] * z[d])
            write += u[d] * v[d]
            dv[d] += u[d] * y
            row[d] = f * row[d]
        dq[c] = read
        dk[c] = write
        for j in range(values):
            e, weights, gradient = u[j], Wt[j], p[j]
            for d in range(values):
                row[d] += e * weights[d]
                dW[j, d] += gradient * u[d]
    return df


@jit()
def _backward(
    first, last, heads, bounds, slots, q, k, v, f, W, Wt, initial, borders, do, dfinal, clip,
    dq, dk, dv, df, dW, dinitial,
):  # fmt: skip
    keys, values = initial.shape[2:]
    path, Z = np.zeros((CHUNK + 1, keys, values), q.dtype), np.zeros((CHUNK, keys, values), q.dtype)
    G, dU = np.zeros((keys, values), q.dtype), np.zeros((keys, values), q.dtype)
    for item in range(first, last):
        s, h = item // heads, item % heads
        start, end = bounds[s], bounds[s + 1]
        copy(dfinal[s, h], G)
        dW[s, h] = 0
        for chunk in range((end - start + CHUNK - 1) // CHUNK - 1, -1, -1):
            t0 = start + chunk * CHUNK
            count = min(CHUNK, end - t0)
            copy(borders[slots[s] + chunk - 1, h] if chunk > 0 else initial[s, h], path[0])
            for i in range(count):
                _step(k[t0 + i, h], v[t0 + i, h], f[t0 + i, h], W[h], path[i], path[i + 1], Z[i])
            for i in range(count - 1, -1, -1):
                t = t0 + i
                df[t, h] = _adjoint(
                    q[t, h], k[t, h], v[t, h], f[t, h], Wt[h], path[i], path[i + 1], Z[i], do[t, h], clip, G, dU,
                    dq[t, h], dk[t, h], dv[t, h], dW[s, h],
                )  # fmt: skip
        copy(G, dinitial[s, h])


def forward(
    q: Tensor, k: Tensor, v: Tensor, f: Tensor, W: Tensor, state: Tensor, cu_seqlens: Tensor | None, clip: float
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), the final state (S, H, K, V) and the borders in one row."""
    bounds, heads = offsets(OP, q, cu_seqlens), q.shape[2]
    o, final, slots = empty_like(v), final_like(state), _borders.first_slots(CHUNK, bounds)
    borders = q.new_zeros(border_shape(q.shape, len(state), state.shape[1:]))
    given = (heads, bounds, slots, *map(rows, (q, k, v, f)), array(W), array(state))
    made = (o.flatten(0, 1).numpy(), final.numpy(), _borders.as_borders(borders, state.shape[1:]))
    run(_forward, (len(bounds) - 1) * heads, 2 * k.numel() * v.shape[-1] * (v.shape[-1] + 20), *given, *made)
    return o, final, borders


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, f: Tensor, W: Tensor, state: Tensor, borders: Tensor,
    cu_seqlens: Tensor | None, clip: float,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, f, W and the initial state."""
    bounds, heads = offsets(OP, q, cu_seqlens), q.shape[2]
    gradients, dstate = [empty_like(t) for t in (q, k, v, f)], empty_like(state)
    dW = W.new_empty(state.shape[0], *W.shape)  # of every sequence by itself: threads may not share a sum
    limit = torch.tensor(clip, dtype=q.dtype).numpy()[()]
    given = (heads, bounds, _borders.first_slots(CHUNK, bounds), *map(rows, (q, k, v, f)), array(W), array(W.mT))
    given += (array(state), _borders.as_borders(borders, state.shape[1:]), rows(do), array(dfinal), limit)
    made = (*(t.flatten(0, 1).numpy() for t in gradients), dW.numpy(), dstate.numpy())
    run(_backward, (len(bounds) - 1) * heads, 6 * k.numel() * v.shape[-1] * (v.shape[-1] + 20), *given, *made)
    return *gradients, dW.sum(0), dstate
