"""Numba kernels for h_t = sum_i a_{t,i} h_{t-i} + x_t: m multiplies a step, never an m x m companion product.

A work item is one sequence times one chunk of channels, walked in order of time and vectorised over channels. Lags are
read where they were written, so nothing is shifted. The order m is compiled in: it is the length of a tuple argument,
which Numba's typing makes a constant. Letters: L rows of all sequences, S sequences, N channels.
"""

import numpy as np
from numba import types
from numba.extending import overload
from torch import Tensor

from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import as_float32, jit
from seqmix.kernels._sequences import offsets, rows
from seqmix.kernels._threads import channel_chunks, run

# Larger orders keep m as a run-time number: unrolling the lags would only bloat the code.
_LARGEST_UNROLLED = 16


def _template(m: int):
    return (0,) * m if m <= _LARGEST_UNROLLED else np.empty(m)


def _exp(x):
    raise NotImplementedError("compiled code only")


@overload(_exp, inline="always")
def _exp_for(x):
    # As in block_scan/cpu.py, and again here because Numba's disk cache misses edits in other files.
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
def _softmax_rows(logits, slots, first, count, gates):
    """gates = softmax of `count` rows of `slots` logits from `first` on."""
    for r in range(count):
        source, target = (first + r) * slots, r * slots
        largest = logits[source]
        for k in range(1, slots):
            value = logits[source + k]
            # Written so that a NaN on either side comes through.
            largest = largest if largest >= value or largest != largest else value
        for k in range(slots):
            gates[target + k] = logits[source + k] - largest
    for k in range(count * slots):
        gates[k] = _exp(gates[k])
    for r in range(count):
        total = gates[r * slots]
        for k in range(1, slots):
            total += gates[r * slots + k]
        scale = 1 / total
        for k in range(slots):
            gates[r * slots + k] *= scale


@jit()
def _forward(first, last, chunks, width, template, gated, bounds, a, x, initial, h, final):
    # a has m slots a channel, or m + 1 logits where gated. Past values are read from h itself, those before the
    # first step from the state: its slot j is the value j + 1 steps before the first.
    m = len(template)
    slots = m + gated
    channels = x.shape[1]
    flat = h.reshape(-1)
    gates = np.empty(width * slots, x.dtype)
    for item in range(first, last):
        s = item // chunks
        n0 = (item % chunks) * width
        count = min(width, channels - n0)
        start, end = bounds[s], bounds[s + 1]
        for t in range(start, end):
            x_t, h_t = x[t, n0:], h[t, n0:]
            # The weights of the step.
            if gated:
                _softmax_rows(a[t], slots, n0, count, gates)
                a_t = gates
            else:
                a_t = a[t, n0 * m :]
            # All lags inside the sequence, or some of them in the state.
            if t - start >= m:
                for n in range(count):
                    value = x_t[n] * a_t[n * slots + m] if gated else x_t[n]
                    for i in range(m):
                        value += a_t[n * slots + i] * flat[(t - 1 - i) * channels + n0 + n]
                    h_t[n] = value
            else:
                for n in range(count):
                    value = x_t[n] * a_t[n * slots + m] if gated else x_t[n]
                    for i in range(m):
                        if t - 1 - i >= start:
                            lag = flat[(t - 1 - i) * channels + n0 + n]
                        else:
                            lag = initial[s, (n0 + n) * m + start - t + i]
                        value += a_t[n * slots + i] * lag
                    h_t[n] = value
        # The last m values, of the state where the sequence is shorter.
        for n in range(count):
            for i in range(m):
                if end - 1 - i >= start:
                    final[s, (n0 + n) * m + i] = flat[(end - 1 - i) * channels + n0 + n]
                else:
                    final[s, (n0 + n) * m + i] = initial[s, (n0 + n) * m + start - end + i]


@jit()
def _backward(first, last, chunks, width, template, gated, bounds, a, x, h, initial, dh, dfinal, da, dx, dinitial):
    # carry[i] is the adjoint of lag i + 1: s_t = dh_t + carry[0], then carry[i] = carry[i + 1] + a_i s_t.
    m = len(template)
    slots = m + gated
    channels = x.shape[1]
    carry = np.empty((m, width), x.dtype)
    lags = np.empty((m, width), x.dtype)
    gates = np.empty(width * slots, x.dtype)
    for item in range(first, last):
        s = item // chunks
        n0 = (item % chunks) * width
        count = min(width, channels - n0)
        start, end = bounds[s], bounds[s + 1]
        for i in range(m):
            for n in range(count):
                carry[i, n] = dfinal[s, (n0 + n) * m + i]
        for t in range(end - 1, start - 1, -1):
            # The weights of the step.
            if gated:
                _softmax_rows(a[t], slots, n0, count, gates)
                a_t = gates
            else:
                a_t = a[t, n0 * m :]
            # Its lags, some of them in the state.
            for i in range(m):
                past = t - 1 - i
                if past >= start:
                    for n in range(count):
                        lags[i, n] = h[past, n0 + n]
                else:
                    for n in range(count):
                        lags[i, n] = initial[s, (n0 + n) * m + start - past - 1]
            # The adjoint of the step, and the gradients that it gives.
            da_t = da[t, n0 * slots :]
            for n in range(count):
                adjoint = dh[t, n0 + n] + carry[0, n]
                for i in range(m - 1):
                    carry[i, n] = carry[i + 1, n] + a_t[n * slots + i] * adjoint
                carry[m - 1, n] = a_t[n * slots + m - 1] * adjoint
                if gated:
                    # The adjoint of softmax and sum: dz_k = s_t p_k (u_k - h_t) with u the lags, then v.
                    now = h[t, n0 + n]
                    for i in range(m):
                        da_t[n * slots + i] = adjoint * a_t[n * slots + i] * (lags[i, n] - now)
                    flow = adjoint * a_t[n * slots + m]
                    da_t[n * slots + m] = flow * (x[t, n0 + n] - now)
                    dx[t, n0 + n] = flow
                else:
                    for i in range(m):
                        da_t[n * slots + i] = adjoint * lags[i, n]
                    dx[t, n0 + n] = adjoint
        for i in range(m):
            for n in range(count):
                dinitial[s, (n0 + n) * m + i] = carry[i, n]


def _flat(x: Tensor) -> np.ndarray:
    """(B, T, ...) as (B * T, everything else)."""
    return rows(x.flatten(2))


def _flat_state(state: Tensor) -> np.ndarray:
    """(S, N, m) as (S, N * m)."""
    return state.detach().contiguous().flatten(1).numpy()


def _op(gated: bool) -> str:
    return "gated_higher_order_scan" if gated else "higher_order_scan"


def forward(
    a: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, gated: bool
) -> tuple[Tensor, Tensor]:
    """h (B, T, N) and the last m values (S, N, m), newest first; `a` holds coefficients, or logits where `gated`."""
    bounds = offsets(_op(gated), x, cu_seqlens)
    h = empty_like(x)
    final = empty_like(initial_state)
    chunks, width = channel_chunks(len(bounds) - 1, x.shape[2])
    arrays = (_flat(a), _flat(x), _flat_state(initial_state), _flat(h), _flat_state(final))
    template = _template(initial_state.shape[2])
    run(_forward, (len(bounds) - 1) * chunks, a.numel(), chunks, width, template, int(gated), bounds, *arrays)
    return h, final


def backward(
    dh: Tensor, dfinal: Tensor, a: Tensor, x: Tensor, h: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of `a` (coefficients or logits), x (or v) and the initial state."""
    bounds = offsets(_op(gated), h, cu_seqlens)
    da = empty_like(a)
    dx = empty_like(h)
    dinitial = empty_like(initial_state)
    chunks, width = channel_chunks(len(bounds) - 1, h.shape[2])
    arrays = (
        *map(_flat, (a, x, h)),
        _flat_state(initial_state),
        _flat(dh),
        _flat_state(dfinal),
        _flat(da),
        _flat(dx),
        _flat_state(dinitial),
    )
    template = _template(initial_state.shape[2])
    run(_backward, (len(bounds) - 1) * chunks, 2 * a.numel(), chunks, width, template, int(gated), bounds, *arrays)
    return da, dx, dinitial
