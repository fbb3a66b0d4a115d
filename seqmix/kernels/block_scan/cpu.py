"""Numba kernels for h_t = A_t h_{t-1} + x_t with small blocks, plain and with softmax gates formed on the fly.

A work item is one sequence times one chunk of blocks, walked in order of time. The block size m is compiled in:
it is the length of a tuple argument, which Numba's typing makes a constant (and its disk cache keeps). Letters:
L rows of all sequences, S sequences, N blocks, m block size.
"""

import numpy as np
from numba import types
from numba.extending import overload
from torch import Tensor

from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import as_float32, jit
from seqmix.kernels._sequences import offsets, rows
from seqmix.kernels._threads import channel_chunks, run

# Larger blocks keep m as a run-time number: unrolling m x m would only bloat the code.
_LARGEST_UNROLLED = 16


def _template(m: int):
    return (0,) * m if m <= _LARGEST_UNROLLED else np.empty(m)


def _exp(x):
    raise NotImplementedError("compiled code only")


@overload(_exp, inline="always")
def _exp_for(x):
    # Only for x <= 0, as after subtracting a maximum. Numba calls a scalar exp, eight times slower than this
    # polynomial (Cephes' expf: x = n ln 2 + r), which vectorises. A comparison with NaN is false, so NaN stays.
    if x == types.float32:

        def exp_float32(x):
            y = np.float32(-87.0) if x < np.float32(-87.0) else x
            n = np.floor(y * np.float32(1.44269504) + np.float32(0.5))
            r = (y - n * np.float32(0.693359375)) + n * np.float32(2.12194440e-4)
            p = np.float32(1.9875691500e-4)
            p = p * r + np.float32(1.3981999507e-3)
            p = p * r + np.float32(8.3334519073e-3)
            p = p * r + np.float32(4.1665795894e-2)
            p = p * r + np.float32(1.6666665459e-1)
            p = p * r + np.float32(5.0000001201e-1)
            p = p * r * r + r + np.float32(1.0)
            bits = np.int32((np.int32(n) + np.int32(127)) << np.int32(23))
            result = p * as_float32(bits)
            return np.float32(0.0) if x < np.float32(-87.0) else result

        return exp_float32
    return lambda x: np.exp(x)


@jit()
def _exp_rows(logits, slots, first, count, weights):
    """weights = exp(logits - their row's maximum) for `count` rows of `slots` logits from `first` on."""
    for r in range(count):
        source, target = (first + r) * slots, r * slots
        largest = logits[source]
        for k in range(1, slots):
            value = logits[source + k]
            # Written so that a NaN on either side comes through.
            largest = largest if largest >= value or largest != largest else value
        for k in range(slots):
            weights[target + k] = logits[source + k] - largest
    for k in range(count * slots):
        weights[k] = _exp(weights[k])


@jit()
def _block_forward(first, last, chunks, width, template, bounds, a, x, initial, h, final):
    m = len(template)
    blocks = x.shape[1] // m
    for item in range(first, last):
        s = item // chunks
        n0 = (item % chunks) * width
        n1 = min(n0 + width, blocks)
        start, end = bounds[s], bounds[s + 1]
        for t in range(start, end):
            previous = initial[s] if t == start else h[t - 1]
            a_t, x_t, h_t = a[t], x[t], h[t]
            for n in range(n0, n1):
                for i in range(m):
                    value = x_t[n * m + i]
                    for j in range(m):
                        value += a_t[(n * m + i) * m + j] * previous[n * m + j]
                    h_t[n * m + i] = value
        carry = initial[s] if end == start else h[end - 1]
        for k in range(n0 * m, n1 * m):
            final[s, k] = carry[k]


@jit()
def _block_backward(first, last, chunks, width, template, bounds, a, h, initial, dh, dfinal, da, dx, dinitial):
    # dinitial carries A_{t+1}^T s_{t+1} on its way back to the first step.
    m = len(template)
    blocks = h.shape[1] // m
    for item in range(first, last):
        s = item // chunks
        n0 = (item % chunks) * width
        n1 = min(n0 + width, blocks)
        start, end = bounds[s], bounds[s + 1]
        carry = dinitial[s]
        for k in range(n0 * m, n1 * m):
            carry[k] = dfinal[s, k]
        for t in range(end - 1, start - 1, -1):
            previous = initial[s] if t == start else h[t - 1]
            a_t, dh_t, da_t, dx_t = a[t], dh[t], da[t], dx[t]
            for n in range(n0, n1):
                for i in range(m):
                    dx_t[n * m + i] = dh_t[n * m + i] + carry[n * m + i]
                for j in range(m):
                    carry[n * m + j] = 0
                for i in range(m):
                    adjoint = dx_t[n * m + i]
                    for j in range(m):
                        carry[n * m + j] += a_t[(n * m + i) * m + j] * adjoint
                        da_t[(n * m + i) * m + j] = adjoint * previous[n * m + j]


@jit()
def _gated_forward(first, last, chunks, width, template, bounds, logits, v, initial, h, final):
    m = len(template)
    blocks = v.shape[1] // m
    weights = np.empty(width * m * (m + 1), v.dtype)
    for item in range(first, last):
        s = item // chunks
        n0 = (item % chunks) * width
        n1 = min(n0 + width, blocks)
        start, end = bounds[s], bounds[s + 1]
        for t in range(start, end):
            previous = initial[s] if t == start else h[t - 1]
            v_t, h_t = v[t], h[t]
            _exp_rows(logits[t], m + 1, n0 * m, (n1 - n0) * m, weights)
            for n in range(n0, n1):
                for i in range(m):
                    w = ((n - n0) * m + i) * (m + 1)
                    total = weights[w + m]
                    value = weights[w + m] * v_t[n * m + i]
                    for j in range(m):
                        total += weights[w + j]
                        value += weights[w + j] * previous[n * m + j]
                    h_t[n * m + i] = value / total
        carry = initial[s] if end == start else h[end - 1]
        for k in range(n0 * m, n1 * m):
            final[s, k] = carry[k]


@jit()
def _gated_backward(
    first, last, chunks, width, template, bounds, logits, v, h, initial, dh, dfinal, dlogits, dv, dinitial
):
    # With u = (h_{t-1}, v_i) the adjoint of softmax and sum is dz_ik = s_i p_ik (u_k - h_i): A is never stored.
    m = len(template)
    blocks = v.shape[1] // m
    weights = np.empty(width * m * (m + 1), v.dtype)
    adjoints = np.empty(m, v.dtype)
    for item in range(first, last):
        s = item // chunks
        n0 = (item % chunks) * width
        n1 = min(n0 + width, blocks)
        start, end = bounds[s], bounds[s + 1]
        carry = dinitial[s]
        for k in range(n0 * m, n1 * m):
            carry[k] = dfinal[s, k]
        for t in range(end - 1, start - 1, -1):
            previous = initial[s] if t == start else h[t - 1]
            v_t, h_t, dh_t, dlogits_t, dv_t = v[t], h[t], dh[t], dlogits[t], dv[t]
            _exp_rows(logits[t], m + 1, n0 * m, (n1 - n0) * m, weights)
            for n in range(n0, n1):
                for i in range(m):
                    adjoints[i] = dh_t[n * m + i] + carry[n * m + i]
                for j in range(m):
                    carry[n * m + j] = 0
                for i in range(m):
                    r = n * m + i
                    w = (r - n0 * m) * (m + 1)
                    total = weights[w + m]
                    for j in range(m):
                        total += weights[w + j]
                    scale = adjoints[i] / total
                    for j in range(m):
                        flow = scale * weights[w + j]
                        carry[n * m + j] += flow
                        dlogits_t[r * (m + 1) + j] = flow * (previous[n * m + j] - h_t[r])
                    flow = scale * weights[w + m]
                    dv_t[r] = flow
                    dlogits_t[r * (m + 1) + m] = flow * (v_t[r] - h_t[r])


def _flat(x: Tensor) -> np.ndarray:
    """(B, T, ...) as (B * T, everything else)."""
    return rows(x.flatten(2))


def _flat_state(state: Tensor) -> np.ndarray:
    """(S, N, m) as (S, N * m)."""
    return state.detach().contiguous().flatten(1).numpy()


def _forward(op: str, kernel, gates: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None):
    bounds = offsets(op, x, cu_seqlens)
    blocks, m = x.shape[2:]
    h = empty_like(x)
    final = empty_like(initial_state)
    chunks, width = channel_chunks(len(bounds) - 1, blocks, multiple=4)
    inputs = (_flat(gates), _flat(x), _flat_state(initial_state), _flat(h), _flat_state(final))
    run(kernel, (len(bounds) - 1) * chunks, gates.numel(), chunks, width, _template(m), bounds, *inputs)
    return h, final


def _backward(op: str, kernel, saved: tuple[Tensor, ...], initial_state, dh, dfinal, cu_seqlens):
    # saved: the gates, for the gated op v, and last h; the gradients wanted are those of all but h.
    gates, h = saved[0], saved[-1]
    bounds = offsets(op, h, cu_seqlens)
    blocks, m = h.shape[2:]
    dgates = empty_like(gates)
    dx = empty_like(h)
    dinitial = empty_like(initial_state)
    chunks, width = channel_chunks(len(bounds) - 1, blocks, multiple=4)
    arrays = (
        *map(_flat, saved),
        _flat_state(initial_state),
        _flat(dh),
        _flat_state(dfinal),
        _flat(dgates),
        _flat(dx),
        _flat_state(dinitial),
    )
    run(kernel, (len(bounds) - 1) * chunks, 2 * gates.numel(), chunks, width, _template(m), bounds, *arrays)
    return dgates, dx, dinitial


def forward(
    a: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, gated: bool
) -> tuple[Tensor, Tensor]:
    """h (B, T, N, m) and the final state (S, N, m); `a` holds matrices, or logits where `gated`."""
    op, kernel = ("gated_block_scan", _gated_forward) if gated else ("block_scan", _block_forward)
    return _forward(op, kernel, a, x, initial_state, cu_seqlens)


def backward(
    dh: Tensor, dfinal: Tensor, a: Tensor, x: Tensor, h: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `a` (matrices or logits), x (or v) and the initial state."""
    if gated:
        return _backward("gated_block_scan", _gated_backward, (a, x, h), initial_state, dh, dfinal, cu_seqlens)
    return _backward("block_scan", _block_backward, (a, h), initial_state, dh, dfinal, cu_seqlens)
