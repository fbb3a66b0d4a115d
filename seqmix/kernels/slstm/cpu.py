"""Numba kernels for the loop of the sLSTM: a work item is one head of one sequence.

In the forward pass what R makes of h is summed over units of h in their order, so that nothing depends on how a
sequence is cut. Gates and cells of all steps are kept, so that the backward pass walks adjoints only. m_t is the larger
of i and log f + m_{t-1}, and receives dm - (dc c + dn n), which is zero where only h is used. Exponentials are
vectorised in float32. Letters: L rows of all sequences, N units of a head.
"""

import numpy as np
import torch
from numba import types
from numba.extending import overload
from torch import Tensor

from seqmix.kernels._loops import shifted
from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import as_float32, as_int32, copy, jit, use_wide_vectors
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import run

OP = "sLSTM"


def _exp(x):
    raise NotImplementedError("compiled code only")


@overload(_exp)
def _exp_for(x):
    # Numba calls a scalar exp; Cephes' polynomial (x = n ln 2 + r) vectorises. Adding 1.5 * 2^23 rounds to an integer,
    # which the low bits then hold. Comparisons with NaN are false, so NaN stays. Never with "reassoc". The same as in
    # causal_conv1d/cpu.py, and the tanh as in m2rnn/cpu.py: Numba's disk cache misses edits in other files.
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


def _log1p(x):
    raise NotImplementedError("compiled code only")


@overload(_log1p)
def _log1p_for(x):
    # For x in [0, 1]: Cephes' logf around 1, above sqrt(2) that of a half and ln 2.
    if x == types.float32:

        def log1p_float32(x):
            far = x > np.float32(0.41421356)
            t = (x - np.float32(1.0)) * np.float32(0.5) if far else x
            p = np.float32(7.0376836292e-2) * t - np.float32(1.1514610310e-1)
            p = p * t + np.float32(1.1676998740e-1)
            p = p * t - np.float32(1.2420140846e-1)
            p = p * t + np.float32(1.4249322787e-1)
            p = p * t - np.float32(1.6668057665e-1)
            p = p * t + np.float32(2.0000714765e-1)
            p = p * t - np.float32(2.4999993993e-1)
            p = p * t + np.float32(3.3333331174e-1)
            y = t + (t * t * t * p - np.float32(0.5) * t * t)
            return y + np.float32(0.69314718) if far else y

        return log1p_float32
    return lambda x: np.log1p(x)


def _tanh(x):
    raise NotImplementedError("compiled code only")


@overload(_tanh)
def _tanh_for(x):
    if x == types.float32:  # Eigen's ratio of polynomials

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
def _cell(gates, h, c, n, m):
    """One step of all units of a head, in place."""
    use_wide_vectors()
    zero, one, units = c.dtype.type(0), c.dtype.type(1), len(h)
    for j in range(units):
        i, f, z, o = gates[j], gates[units + j], gates[2 * units + j], gates[3 * units + j]
        e = _exp(-abs(f))
        kept, begun = (f if f < zero else zero) - _log1p(e) + m[j], n[j] != zero
        most = kept if begun and kept > i else i
        carried, write = _exp(kept - most), _exp(i - most)
        forget = carried if begun else zero
        c[j] = forget * c[j] + write * _tanh(z)
        n[j] = forget * n[j] + write
        m[j] = most
        h[j] = c[j] / n[j] / (one + _exp(-o))


@jit()
def _forward(first, last, heads, bounds, p, R, initial, h, cells, kept, final):
    units = R.shape[1]
    state = np.zeros((4, units), p.dtype)
    for item in range(first, last):
        s, k = item // heads, item % heads
        copy(initial[s, :, k], state)
        for t in range(bounds[s], bounds[s + 1]):
            gates = kept[t, k]
            for e in range(4 * units):
                gates[e] = p[t, k, e]
            for j in range(units):
                u, weights = state[0, j], R[k, j]
                for e in range(4 * units):
                    gates[e] += u * weights[e]
            _cell(gates, state[0], state[1], state[2], state[3])
            for j in range(units):
                h[t, k, j] = state[0, j]
                cells[t, k, 0, j], cells[t, k, 1, j], cells[t, k, 2, j] = state[1, j], state[2, j], state[3, j]
        copy(state, final[s, :, k])


@jit()
def _adjoint(gates, cells, c_before, n_before, m_before, dh, dhidden, dc, dn, dm, dgates):
    """One step back for all units of a head; dhidden, dc, dn and dm change in place."""
    use_wide_vectors()
    zero, one, units = dc.dtype.type(0), dc.dtype.type(1), len(dc)
    for j in range(units):
        i, f, c, n, m = gates[j], gates[units + j], cells[0, j], cells[1, j], cells[2, j]
        z, o = _tanh(gates[2 * units + j]), one / (one + _exp(-gates[3 * units + j]))
        e = _exp(-abs(f))
        kept, begun = (f if f < zero else zero) - _log1p(e) + m_before[j], n_before[j] != zero
        carried, write = _exp(kept - m), _exp(i - m)
        forget, from_f = carried if begun else zero, begun and kept > i
        g, ratio = dh[j] + dhidden[j], c / n
        into_c, into_n = dc[j] + g * o / n, dn[j] - g * o * ratio / n
        into_m = dm[j] - (into_c * c + into_n * n)
        dlog_f = (into_c * c_before[j] + into_n * n_before[j]) * forget + (into_m if from_f else zero)
        dgates[j] = (into_c * z + into_n) * write + (zero if from_f else into_m)
        dgates[units + j] = dlog_f * (e if f > zero else one) / (one + e)
        dgates[2 * units + j] = into_c * write * (one - z * z)
        dgates[3 * units + j] = g * ratio * o * (one - o)
        dc[j], dn[j], dm[j] = into_c * forget, into_n * forget, dlog_f
        dhidden[j] = zero


@jit()
def _backward(first, last, heads, bounds, gates, Rt, initial, cells, dh, dfinal, dgates, dinitial):
    units = Rt.shape[2]
    carry = np.zeros((4, units), Rt.dtype)  # adjoints of h, c, n, m
    start = np.zeros((3, units), Rt.dtype)
    for item in range(first, last):
        s, k = item // heads, item % heads
        copy(dfinal[s, :, k], carry)
        copy(initial[s, 1:, k], start)
        for t in range(bounds[s + 1] - 1, bounds[s] - 1, -1):
            before = cells[t - 1, k] if t > bounds[s] else start
            dgate, dhidden = dgates[t, k], carry[0]
            _adjoint(
                gates[t, k], cells[t, k], before[0], before[1], before[2],
                dh[t, k], dhidden, carry[1], carry[2], carry[3], dgate,
            )  # fmt: skip
            for e in range(4 * units):
                u, weights = dgate[e], Rt[k, e]
                for j in range(units):
                    dhidden[j] += u * weights[j]
        copy(carry, dinitial[s, :, k])


def forward(p: Tensor, R: Tensor, state: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h (B, T, H, N), the final state (S, 4, H, N), and of all steps c, n, m (B, T, H, 3, N) and gates (like p)."""
    bounds, heads = offsets(OP, p, cu_seqlens), p.shape[2]
    h, final = p.new_empty(*p.shape[:3], p.shape[-1]), empty_like(state)
    cells, gates = p.new_empty(*h.shape[:3], 3, h.shape[-1]), empty_like(p)
    given = (heads, bounds, rows(p.flatten(3)), array(R.flatten(2)), array(state))
    made = (h.flatten(0, 1).numpy(), cells.flatten(0, 1).numpy(), rows(gates.flatten(3)), final.numpy())
    run(_forward, (len(bounds) - 1) * heads, p.numel() * (p.shape[-1] + 20), *given, *made)
    return h, final, cells, gates


def backward(
    dh: Tensor, dfinal: Tensor, R: Tensor, state: Tensor, h: Tensor, cells: Tensor, gates: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of p, R and the initial state."""
    bounds, heads = offsets(OP, h, cu_seqlens), h.shape[2]
    before = shifted(h, state[:, 0], cu_seqlens).flatten(0, 1).transpose(0, 1)  # (H, L, N)
    dgates, dstate = empty_like(gates), empty_like(state)
    flat = dgates.flatten(3).flatten(0, 1)  # (L, H, 4 N)
    given = (heads, bounds, rows(gates.flatten(3)), array(R.flatten(2).mT), array(state), rows(cells))
    made = (rows(dh), array(dfinal), flat.numpy(), dstate.numpy())
    run(_backward, (len(bounds) - 1) * heads, gates.numel() * (gates.shape[-1] + 30), *given, *made)
    with torch.autocast(h.device.type, enabled=False):
        dR = (before.mT @ flat.transpose(0, 1)).view_as(R)
    return dgates, dR, dstate
