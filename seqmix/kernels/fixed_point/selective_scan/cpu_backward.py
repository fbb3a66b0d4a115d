"""The Numba kernel for gradients of the fixed-point Mamba: from the last token to the first, in one pass.

A work item is one sequence. The letters and formulas are those of `solvers.Adjoint`, which forms gates, states
and norms of all tokens at once before; ranks are 1 and 2. L rows of all sequences, S sequences, D channels, N states
of each, r rank, M = 2 N + r (D + 1).
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqmix.kernels._numba import copy, jit
from seqmix.kernels._sequences import array
from seqmix.kernels._threads import run
from seqmix.kernels.fixed_point.selective_scan.tokens import Known, Recurrence

EPS = 1e-5
EPS_LOW_RANK = 1e-6


@jit("reassoc")
def _dot(x, y):
    total = x[0] * y[0]
    for n in range(1, x.shape[0]):
        total += x[n] * y[n]
    return total


@jit()
def _eliminate(a, x):
    """x <- a^-1 x with row exchanges, for sizes 1 and 2; a is overwritten."""
    if x.shape[0] == 2:
        if abs(a[1, 0]) > abs(a[0, 0]):
            for j in range(2):
                a[0, j], a[1, j] = a[1, j], a[0, j]
            x[0], x[1] = x[1], x[0]
        factor = a[1, 0] / a[0, 0]
        x[1] = (x[1] - factor * x[0]) / (a[1, 1] - factor * a[0, 1])
        x[0] -= a[0, 1] * x[1]
    x[0] /= a[0, 0]


@jit("reassoc")
def _norm_back(v, weight, unit, inverse, scale, out):
    """out <- scale norm'^T v."""
    width = v.shape[0]
    mean, along = v[0] - v[0], v[0] - v[0]
    for d in range(width):
        out[d] = weight[d] * v[d]
        mean += out[d]
        along += unit[d] * out[d]
    mean, along = v.dtype.type(mean / width), v.dtype.type(along / width)
    for d in range(width):
        out[d] = scale[d] * (inverse * (out[d] - mean - unit[d] * along))


@jit("reassoc")
def _unit_back(raw, unit, dunit, out):
    real = raw.dtype.type
    inverse, along = real(1) / np.sqrt(_dot(raw, raw) + real(EPS)), _dot(unit, dunit)
    for n in range(raw.shape[0]):
        out[n] = inverse * (dunit[n] - unit[n] * along)


@jit("reassoc")
def _mixed_back(alpha, upper, u, v, eta, out):
    """eta = S^T U v; out += U^T eta."""
    for i in range(len(alpha)):
        left = _dot(u[i], v)
        for j in range(i):
            left -= upper[j, i] * eta[j]
        eta[i] = alpha[i] * left
        for d in range(out.shape[0]):
            out[d] += eta[i] * u[i, d]


@jit("reassoc")
def _adjoint(alpha, upper, u, weight, unit, inverse, gain, columns, z):
    """z <- (I - K^T B^T)^-1 z."""
    rank = len(alpha)
    core, eta = np.empty((rank, rank)), np.empty(rank)
    _norm_back(z, weight, unit, inverse, gain, columns[0])
    for i in range(rank):
        eta[i] = alpha[i] * _dot(u[i], columns[0])
    for j in range(rank):
        _norm_back(u[j], weight, unit, inverse, gain, columns[j])
        for i in range(rank):
            core[i, j] = alpha[i] * (upper[j, i] - _dot(u[i], columns[j]))
        core[j, j] += 1.0
    _eliminate(core, eta)
    for i in range(rank):
        factor = z.dtype.type(eta[i])
        for d in range(z.shape[0]):
            z[d] += factor * u[i, d]


@jit("reassoc")
def _mixing_back(pre, alpha, upper, u, strength, product, dx, e, eta, du, out):
    """out <- the gradient of dx^T K e in the pre-activations of the mixing; eta = S^T U dx."""
    real, one = pre.dtype.type, strength / strength
    rank, width = u.shape
    rows, omega = np.empty(rank, pre.dtype), np.empty(rank, pre.dtype)
    for i in range(rank - 1, -1, -1):
        rows[i] = _dot(u[i], e)
        for j in range(i + 1, rank):
            rows[i] -= upper[i, j] * omega[j]
        omega[i] = alpha[i] * rows[i]
    for i in range(rank):
        left = _dot(u[i], dx)
        for j in range(i):
            left -= upper[j, i] * eta[j]
        out[rank * width + i] = left * rows[i] * alpha[i] * (one - alpha[i] / strength)
        for d in range(width):
            du[d] = omega[i] * dx[d] + eta[i] * e[d]
        for j in range(rank):
            if product and j != i:
                both = eta[min(i, j)] * omega[max(i, j)]
                for d in range(width):
                    du[d] -= both * u[j, d]
        raw, out_i = pre[i * width : (i + 1) * width], out[i * width : (i + 1) * width]
        along, square = _dot(u[i], du), real(EPS_LOW_RANK)
        for d in range(width):
            gate = one / (one + np.exp(-raw[d]))
            square += raw[d] * gate * raw[d] * gate
            out_i[d] = gate * (one + raw[d] * (one - gate)) * (du[d] - u[i, d] * along)
        inverse = one / np.sqrt(square)
        for d in range(width):
            out_i[d] *= inverse


@jit("reassoc")
def _backward(
    first, last, bounds, inputs, gates, factors, states, norms, cotangents, where, strength, product, rows, sums
):
    u_in, dt, A, D, weight, y, x = inputs
    pre, b, c = gates
    u, alpha, upper = factors
    s0, kept, decay = states
    norm, unit, inverse, gain = norms
    dy, ds, dlast = cotangents
    zeta, du_in, ddt, dp = rows
    dA, dD, dnorm, ds0, dy0 = sums
    (width, size), rank = A.shape, u.shape[1]
    zero, eta = strength - strength, np.empty(rank, A.dtype)
    columns, vectors, dgates = (
        np.empty((rank, width), A.dtype),
        np.empty((4, width), A.dtype),
        np.empty((2, size), A.dtype),
    )
    do, e, scratch, ones = vectors[0], vectors[1], vectors[2], vectors[3]
    ones[:] = 1
    for q in range(first, last):
        later, carry = ds0[q], dy0[q]
        copy(ds[q], later)
        copy(dlast[q], carry)
        for t in range(bounds[q + 1] - 1, bounds[q] - 1, -1):
            # All that is known of the token.
            previous = s0[q] if t == bounds[q] else kept[t - 1]
            dt_t, z, dp_t, ddt_t, dx, x_t, b_t, c_t = dt[t], zeta[t], dp[t], ddt[t], du_in[t], x[t], b[t], c[t]
            inverse_t = inverse[t, 0]
            # zeta_t, the whole gradient that reaches y_t: a solve of size r.
            for d in range(width):
                z[d] = dy[t, d] + carry[d]
                dx[d] = dt_t[d] * _dot(later[d], b_t)
                e[d] = y[t, d] - u_in[t, d]
            _mixed_back(alpha[t], upper[t], u[t], dx, eta, z)
            _adjoint(alpha[t], upper[t], u[t], norm[0], unit[t], inverse_t, gain[t], columns, z)
            # Through the norm to o_t, and from there to the state, dt, A, D, b and c.
            _norm_back(z, norm[0], unit[t], inverse_t, ones, do)
            dgates[:] = zero
            for d in range(width):
                dnorm[q, 0, d] += z[d] * unit[t, d]
                dnorm[q, 1, d] += z[d]
                dD[q, d] += do[d] * x_t[d]
                row, rates, gone, was, now, drates = later[d], A[d], decay[t, d], previous[d], kept[t, d], dA[q, d]
                write, rate, wide = zero, zero, dt_t[d] * x_t[d]
                for n in range(size):
                    grown = row[n] + do[d] * c_t[n]
                    write += grown * b_t[n]
                    dgates[0, n] += grown * wide
                    dgates[1, n] += do[d] * now[n]
                    row[n] = grown * gone[n]
                    drate = row[n] * was[n]
                    rate += drate * rates[n]
                    drates[n] += drate * dt_t[d]
                dx[d] = D[d] * do[d] + dt_t[d] * write
                ddt_t[d] = rate + x_t[d] * write
            # To the pre-activations: of b and c by their unit length, of the mixing.
            _unit_back(pre[t, :size], b_t, dgates[0], dp_t[:size])
            _unit_back(pre[t, size : 2 * size], c_t, dgates[1], dp_t[size : 2 * size])
            scratch[:] = zero
            _mixed_back(alpha[t], upper[t], u[t], dx, eta, scratch)
            mixing = pre[t, 2 * size :]
            _mixing_back(mixing, alpha[t], upper[t], u[t], strength, product, dx, e, eta, do, dp_t[2 * size :])
            for d in range(width):
                dx[d] -= scratch[d]  # which makes it the gradient in u
            # To y of the token before, through the gates.
            carry[:] = zero
            for k in range(where.shape[0]):
                factor, row = dp_t[where[k]], weight[k]
                for d in range(width):
                    carry[d] += factor * row[d]


class ExactGradients(NamedTuple):
    zeta: Tensor  # (L, D)
    u: Tensor  # (L, D)
    dt: Tensor  # (L, D)
    p: Tensor  # (L, M)
    A: Tensor  # (D, N)
    D: Tensor  # (D,)
    norm: Tensor  # (2, D)
    s0: Tensor  # (S, D, N)
    y0: Tensor  # (S, D)


def _arrays(*tensors: Tensor) -> tuple[np.ndarray, ...]:
    return tuple(map(array, tensors))


def backward(r: Recurrence, known: Known, dy: Tensor, ds: Tensor, dlast: Tensor) -> ExactGradients:
    """The exact gradients from those of y (L, D), of the final states (S, D, N) and of the last y (S, D)."""
    i, k = r.inputs, known
    rows = [torch.empty(t.shape, dtype=t.dtype) for t in (i.u, i.u, i.dt, i.p)]
    sums = [r.s0.new_zeros(len(r.s0), *t.shape) for t in (i.A, i.D, i.norm)]
    states = [torch.empty(t.shape, dtype=t.dtype) for t in (r.s0, r.y0)]
    norms = _arrays(i.norm, k.unit, k.inverse, k.gain)
    run(
        _backward,
        len(r.s0),
        len(i.u) * (i.weight.numel() + 16 * i.A.numel()),
        r.bounds.numpy(),
        _arrays(i.u, i.dt, i.A, i.D, i.weight, k.y, k.x),
        _arrays(k.pre, k.b, k.c),
        _arrays(k.u, k.alpha, k.upper),
        _arrays(r.s0, k.states, k.decay),
        norms,
        _arrays(dy, ds, dlast),
        r.where,
        norms[0].dtype.type(r.strength),
        r.product,
        _arrays(*rows),
        _arrays(*sums, *states),
    )
    return ExactGradients(*rows, *(t.sum(0) for t in sums), *states)
