"""Numba kernels for the causal convolution: one pass over rows in order of time, vectorised over channels.

A work item is one sequence times one chunk of channels. Row j of a sequence is x_j, or for j < 0 a row of the window
that came in, so the first W - 1 steps are no special case. The activation is fused; the backward pass recomputes its
argument. Letters: L rows of all sequences, S sequences, D channels, W taps.
"""

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import as_float32, as_int32, jit
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import channel_chunks, run

OP = "causal_conv1d"

# Gradients of weight and bias are summed over this many steps at a time: short sums lose less to rounding.
_SUM = 64


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
def _row(j, s, d0, d1, start, x, window):
    """Input j of sequence s, channels [d0, d1); the inputs before the first lie in the window, oldest first."""
    return window[s, window.shape[1] + j, d0:d1] if j < 0 else x[start + j, d0:d1]


@jit()
def _convolve(t, s, d0, d1, start, x, taps, bias, window, z):
    """z = bias + sum_i taps_i x_{t-W+1+i} for one step of one sequence."""
    last = len(taps) - 1
    row, tap = _row(t, s, d0, d1, start, x, window), taps[last, d0:d1]
    offset = bias[d0:d1]
    for d in range(d1 - d0):
        z[d] = offset[d] + tap[d] * row[d]
    for i in range(last):
        row, tap = _row(t - last + i, s, d0, d1, start, x, window), taps[i, d0:d1]
        for d in range(d1 - d0):
            z[d] += tap[d] * row[d]


@jit()
def _forward(first, last, chunks, width, bounds, silu, x, taps, bias, window, y, final):
    channels = x.shape[1]
    one = taps.dtype.type(1)
    before = len(taps) - 1
    for item in range(first, last):
        s = item // chunks
        d0 = (item % chunks) * width
        d1 = min(d0 + width, channels)
        start, length = bounds[s], bounds[s + 1] - bounds[s]
        for t in range(length):
            z = y[start + t, d0:d1]
            _convolve(t, s, d0, d1, start, x, taps, bias, window, z)
            if silu:
                for d in range(d1 - d0):
                    z[d] = z[d] / (one + _exp(-z[d]))
        for i in range(before):
            row = _row(length - before + i, s, d0, d1, start, x, window)
            for d in range(d1 - d0):
                final[s, i, d0 + d] = row[d]


@jit()
def _backward(
    first, last, chunks, width, bounds, silu,
    x, taps, bias, window, dy, dfinal, dx, dtaps, dbias, dwindow,
):  # fmt: skip
    # dx, dtaps, dbias and dwindow come in as zeros; dtaps and dbias have one part for each sequence.
    channels = x.shape[1]
    one = taps.dtype.type(1)
    before = len(taps) - 1
    dz = np.empty(width, x.dtype)
    part = np.zeros((before + 2, width), x.dtype)  # one row for each tap, one for the bias
    for item in range(first, last):
        s = item // chunks
        d0 = (item % chunks) * width
        d1 = min(d0 + width, channels)
        n = d1 - d0
        start, length = bounds[s], bounds[s + 1] - bounds[s]
        # What the final window hands back to the last inputs.
        for i in range(before):
            target = _row(length - before + i, s, d0, d1, start, dx, dwindow)
            for d in range(n):
                target[d] += dfinal[s, i, d0 + d]
        for t in range(length):
            # Through the activation, whose argument is formed again.
            upstream = dy[start + t, d0:d1]
            if silu:
                _convolve(t, s, d0, d1, start, x, taps, bias, window, dz)
                for d in range(n):
                    gate = one / (one + _exp(-dz[d]))
                    dz[d] = upstream[d] * gate * (one + dz[d] * (one - gate))
            else:
                for d in range(n):
                    dz[d] = upstream[d]
            # To the bias, the taps and the inputs under the window.
            for d in range(n):
                part[before + 1, d] += dz[d]
            for i in range(before + 1):
                row = _row(t - before + i, s, d0, d1, start, x, window)
                target = _row(t - before + i, s, d0, d1, start, dx, dwindow)
                tap, total = taps[i, d0:d1], part[i]
                for d in range(n):
                    total[d] += dz[d] * row[d]
                    target[d] += dz[d] * tap[d]
            # Short sums first, so that their errors stay small.
            if t % _SUM == _SUM - 1 or t == length - 1:
                for i in range(before + 1):
                    for d in range(n):
                        dtaps[s, i, d0 + d] += part[i, d]
                for d in range(n):
                    dbias[s, d0 + d] += part[before + 1, d]
                part[:] = 0


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """y (B, T, D) and the last W - 1 inputs (S, W - 1, D); all inputs of one type."""
    bounds = offsets(OP, x, cu_seqlens)
    y = empty_like(x)
    final = empty_like(initial_state)
    chunks, width = channel_chunks(len(bounds) - 1, x.shape[2])
    run(
        _forward,
        (len(bounds) - 1) * chunks,
        weight.shape[1] * x.numel(),
        chunks,
        width,
        bounds,
        silu,
        rows(x),
        array(weight.T),
        array(bias),
        array(initial_state),
        y.flatten(0, 1).numpy(),
        final.numpy(),
    )
    return y, final


def backward(
    dy: Tensor, dfinal: Tensor, x: Tensor, weight: Tensor, bias: Tensor, initial_state: Tensor,
    cu_seqlens: Tensor | None, silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of x, weight, bias and the initial state."""
    bounds = offsets(OP, x, cu_seqlens)
    sequences = len(bounds) - 1
    channels, taps = weight.shape
    dx, dinitial = (torch.zeros_like(t, memory_format=torch.contiguous_format) for t in (x, initial_state))
    dtaps, dbias = x.new_zeros(sequences, taps, channels), x.new_zeros(sequences, channels)
    chunks, width = channel_chunks(sequences, channels)
    run(
        _backward,
        sequences * chunks,
        4 * taps * x.numel(),
        chunks,
        width,
        bounds,
        silu,
        rows(x),
        array(weight.T),
        array(bias),
        array(initial_state),
        rows(dy),
        array(dfinal),
        dx.flatten(0, 1).numpy(),
        dtaps.numpy(),
        dbias.numpy(),
        dinitial.numpy(),
    )
    return dx, dtaps.sum(0).T.contiguous(), dbias.sum(0), dinitial
