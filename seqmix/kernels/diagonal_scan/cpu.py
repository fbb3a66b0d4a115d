"""Numba kernels for h_t = a_t h_{t-1} + x_t: one pass over memory, vectorised over channels.

A work item is one sequence times one chunk of channels; time is walked in order, so the carry is exact and the
cost is the bytes moved. Letters: L rows of all sequences, S sequences, D channels.
"""

import numpy as np
from torch import Tensor

from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import jit
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import channel_chunks, run

OP = "diagonal_scan"


@jit()
def _forward(first, last, chunks, width, bounds, a, a_step, x, initial, h, final):
    # a_step is 1, or 0 where a is the same at every step and has one row.
    channels = x.shape[1]
    carry = np.empty(width, x.dtype)
    for item in range(first, last):
        s = item // chunks
        d0 = (item % chunks) * width
        n = min(width, channels - d0)
        for d in range(n):
            carry[d] = initial[s, d0 + d]
        for t in range(bounds[s], bounds[s + 1]):
            for d in range(n):
                value = a[t * a_step, d0 + d] * carry[d] + x[t, d0 + d]
                carry[d] = value
                h[t, d0 + d] = value
        for d in range(n):
            final[s, d0 + d] = carry[d]


@jit()
def _backward(first, last, chunks, width, bounds, a, a_step, h, initial, dh, dfinal, da, dx, dinitial):
    # carry holds conj(a_{t+1}) s_{t+1}; da has one row per step, or one per sequence where a has one row.
    channels = h.shape[1]
    carry = np.empty(width, h.dtype)
    for item in range(first, last):
        s = item // chunks
        d0 = (item % chunks) * width
        n = min(width, channels - d0)
        start = bounds[s]
        for d in range(n):
            carry[d] = dfinal[s, d0 + d]
        for t in range(bounds[s + 1] - 1, start - 1, -1):
            for d in range(n):
                adjoint = dh[t, d0 + d] + carry[d]
                dx[t, d0 + d] = adjoint
                carry[d] = np.conj(a[t * a_step, d0 + d]) * adjoint
            previous = initial[s] if t == start else h[t - 1]
            if a_step == 1:
                for d in range(n):
                    da[t, d0 + d] = dx[t, d0 + d] * np.conj(previous[d0 + d])
            else:
                for d in range(n):
                    da[s, d0 + d] += dx[t, d0 + d] * np.conj(previous[d0 + d])
        for d in range(n):
            dinitial[s, d0 + d] = carry[d]


def forward(a: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """h (B, T, D) and the final state (S, D); all inputs of one type, a (B, T, D) or (D,)."""
    bounds = offsets(OP, x, cu_seqlens)
    h = empty_like(x)
    final = empty_like(initial_state)
    chunks, width = channel_chunks(len(bounds) - 1, x.shape[2])
    gates = a.detach().contiguous()
    run(
        _forward,
        (len(bounds) - 1) * chunks,
        x.numel(),
        chunks,
        width,
        bounds,
        gates.reshape(-1, x.shape[2]).numpy(),
        int(a.ndim == 3),
        rows(x),
        array(initial_state),
        h.flatten(0, 1).numpy(),
        final.numpy(),
    )
    return h, final


def backward(
    dh: Tensor, dfinal: Tensor, a: Tensor, h: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, x and the initial state: s_t = dh_t + conj(a_{t+1}) s_{t+1}, da_t = s_t conj(h_{t-1})."""
    bounds = offsets(OP, h, cu_seqlens)
    sequences, channels = len(bounds) - 1, h.shape[2]
    varying = a.ndim == 3
    da = empty_like(a) if varying else a.new_zeros(sequences, channels)
    dx = empty_like(h)
    dinitial = empty_like(initial_state)
    chunks, width = channel_chunks(sequences, channels)
    run(
        _backward,
        sequences * chunks,
        2 * h.numel(),
        chunks,
        width,
        bounds,
        a.detach().contiguous().reshape(-1, channels).numpy(),
        int(varying),
        rows(h),
        array(initial_state),
        rows(dh),
        array(dfinal),
        da.reshape(-1, channels).numpy(),
        dx.flatten(0, 1).numpy(),
        dinitial.numpy(),
    )
    return (da if varying else da.sum(0)), dx, dinitial
