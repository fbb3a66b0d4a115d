"""Numba kernels for the fixed-point Mamba with a mixing of rank 1 or 2: one pass over time, every token solved.

A work item is one sequence. The letters and formulas are those of `cell` and `low_rank`; the root is bracketed
as there, but in float64, and by each sequence for itself. States lie as (N, D): inner loops run over channels.
L rows of all sequences, S sequences, D channels, N states of each, r rank, M = 2 N + r (D + 1).
"""

import numpy as np
import torch
from torch import Tensor

from seqmix.kernels._numba import copy, jit
from seqmix.kernels._sequences import array
from seqmix.kernels._threads import run
from seqmix.kernels.fixed_point.selective_scan.tokens import Recurrence

EPS = 1e-5
EPS_LOW_RANK = 1e-6
IDLE = 4  # steps without a smaller residual
CLOSE = 4 * np.finfo(np.float64).eps  # a bracket with nothing left inside


@jit("reassoc")
def _dot(x, y):
    total = x[0] * y[0]
    for n in range(1, x.shape[0]):
        total += x[n] * y[n]
    return total


@jit("reassoc")
def _centre(x):
    total = x[0]
    for n in range(1, x.shape[0]):
        total += x[n]
    mean = x.dtype.type(total / x.shape[0])
    for n in range(x.shape[0]):
        x[n] -= mean


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


@jit()
def _first_pole(m):
    for value in m.flat:
        if not np.isfinite(value):
            return 0.0
    if m.shape[0] == 1:
        return max(m[0, 0], 0.0)
    half, mean = (m[0, 0] - m[1, 1]) / 2, (m[0, 0] + m[1, 1]) / 2
    square = half * half + m[0, 1] * m[1, 0]
    root = np.sqrt(max(square, 0.0))
    # The larger eigenvalue without a difference.
    top = mean + root if mean >= 0 else (m[0, 0] * m[1, 1] - m[0, 1] * m[1, 0]) / (mean - root)
    return max(top, 0.0) if square >= -1e-14 * top * top else 0.0


@jit()
def _excess(tau, system, source, cross, gram, square, work, omega):
    """1 / deviation - tau; omega becomes that of tau."""
    rank = source.shape[0]
    for i in range(rank):
        omega[i] = source[i]
        for j in range(rank):
            work[i, j] = -tau * system[i, j]
        work[i, i] += 1.0
    _eliminate(work, omega)
    total = square
    for i in range(rank):
        omega[i] *= tau
    for i in range(rank):
        total += omega[i] * (2 * cross[i] + _dot(gram[i], omega))
    return 1.0 / np.sqrt(max(total, 0.0) + EPS) - tau


@jit()
def _root(system, source, cross, gram, square, tolerance, cap, work, omega):
    """tau and the steps taken: regula falsi with the Illinois rule, between zero and the first pole.

    Where it stalls the bracket is halved: beside a pole four steps may bring nothing and yet be far from the root.
    """
    low, high = 0.0, 1.0 / max(_first_pole(system), 0.5 * np.sqrt(EPS))
    f_low, f_high = 1.0 / np.sqrt(square + EPS), -high
    best, least, side, idle, steps = low, f_low, 0, 0, 0
    while steps < cap and least > tolerance * best and high - low > CLOSE * high:
        tau = 0.5 * (low + high) if idle >= IDLE else low + (high - low) * (f_low / (f_low - f_high))
        f = _excess(tau, system, source, cross, gram, square, work, omega)
        steps += 1
        idle += 1
        if abs(f) < least:
            best, least, idle = tau, abs(f), 0
        if f < 0:
            high, f_high = tau, f
            if side > 0:
                f_low *= 0.5
            side = 1
        else:
            low, f_low = tau, f
            if side < 0:
                f_high *= 0.5
            side = -1
    _excess(best, system, source, cross, gram, square, work, omega)
    return best, steps


@jit("reassoc")
def _gates(p_t, weight, where, before, strength, product, pre, bc, u, alpha, upper):
    # weight is (R, D); where says which pre-activation each of its rows belongs to.
    one, states = strength / strength, bc.shape[1]
    rank, width = u.shape
    for m in range(pre.shape[0]):
        pre[m] = p_t[m]
    for k in range(where.shape[0]):
        pre[where[k]] += _dot(weight[k], before)
    for part in range(2):
        raw = pre[part * states : (part + 1) * states]
        inverse = one / np.sqrt(_dot(raw, raw) + p_t.dtype.type(EPS))
        for n in range(states):
            bc[part, n] = raw[n] * inverse
    for i in range(rank):
        raw, row = pre[2 * states + i * width : 2 * states + (i + 1) * width], u[i]
        for d in range(width):
            row[d] = raw[d] / (one + np.exp(-raw[d]))
        inverse = one / np.sqrt(_dot(row, row) + p_t.dtype.type(EPS_LOW_RANK))
        for d in range(width):
            row[d] *= inverse
        alpha[i] = strength / (one + np.exp(-pre[2 * states + rank * width + i]))
        for j in range(i):
            upper[j, i] = _dot(u[j], row) if product else one - one


@jit()
def _coefficients(alpha, upper, rows, omega):
    """omega = S rows, rows being U v."""
    for i in range(len(alpha) - 1, -1, -1):
        left = rows[i]
        for j in range(i + 1, len(alpha)):
            left -= upper[i, j] * omega[j]
        omega[i] = alpha[i] * left


@jit("reassoc")
def _forward(
    first, last, bounds, u_in, dt, p, A, D, weight, where, norm, strength, product, rank, tolerance, cap, s0, y0,
    y, final, report
):  # fmt: skip
    real = p.dtype.type
    states, width = A.shape
    pre, bc, u = np.empty(p.shape[1], p.dtype), np.empty((2, states), p.dtype), np.empty((rank, width), p.dtype)
    alpha, upper = np.empty(rank, p.dtype), np.zeros((rank, rank), p.dtype)
    vectors, columns = np.empty((4, width), p.dtype), np.empty((rank, width), p.dtype)
    gain, rest, x, o = vectors[0], vectors[1], vectors[2], vectors[3]
    inner, small, source = np.empty((3, rank), p.dtype), np.empty((3, rank, rank)), np.empty((3, rank))
    system, gram, work, cross, omega = small[0], small[1], small[2], source[1], source[2]
    for q in range(first, last):
        state, before = final[q], y0[q]
        copy(s0[q], state)
        most, change, size = 0, real(0), real(0)
        for t in range(bounds[q], bounds[q + 1]):
            # The gates of the token.
            u_t, dt_t, y_t = u_in[t], dt[t], y[t]
            _gates(p[t], weight, where, before, strength, product, pre, bc, u, alpha, upper)
            # y = norm(rest + gain K (y - bias)): `rest`, with the decayed state read, and `gain` (D,).
            same = _dot(bc[0], bc[1])
            for d in range(width):
                x[d] = u_t[d] - norm[1, d]
            for i in range(rank):
                inner[0, i] = _dot(u[i], x)
            _coefficients(alpha, upper, inner[0], inner[1])
            for d in range(width):
                gain[d] = dt_t[d] * same + D[d]
                mixed = u_t[d]
                for i in range(rank):
                    mixed -= inner[1, i] * u[i, d]
                rest[d] = gain[d] * mixed
            for n in range(states):
                row, rates, c = state[n], A[n], bc[1, n]
                for d in range(width):
                    row[d] *= np.exp(dt_t[d] * rates[d])
                    rest[d] += c * row[d]
            # The same in the basis U, for the root: `system`, `source`, `gram`, `cross` of size r.
            _centre(rest)
            for i in range(rank):
                for d in range(width):
                    columns[i, d] = gain[d] * u[i, d]
                _centre(columns[i])
            for d in range(width):
                x[d] = norm[0, d] * rest[d]
            for i in range(rank):
                inner[0, i], cross[i] = _dot(u[i], x), _dot(columns[i], rest) / width
            _coefficients(alpha, upper, inner[0], inner[1])
            for i in range(rank):
                source[0, i] = inner[1, i]
                for j in range(rank):
                    gram[i, j] = _dot(columns[i], columns[j]) / width
            for j in range(rank):
                for d in range(width):
                    x[d] = norm[0, d] * columns[j, d]
                for i in range(rank):
                    inner[0, i] = _dot(u[i], x)
                _coefficients(alpha, upper, inner[0], inner[1])
                for i in range(rank):
                    system[i, j] = inner[1, i]
            square = _dot(rest, rest) / width
            # The root, and y_t from it.
            tau, steps = _root(system, source[0], cross, gram, square, tolerance, cap, work, omega)
            most = max(most, steps)
            scale = real(tau)
            for i in range(rank):
                inner[2, i] = real(omega[i])
            for d in range(width):
                value = rest[d]
                for i in range(rank):
                    value += inner[2, i] * columns[i, d]
                y_t[d] = scale * norm[0, d] * value + norm[1, d]
                x[d] = y_t[d] - u_t[d]
            # The state after the token, and the o_t that it gives.
            for i in range(rank):
                inner[0, i] = _dot(u[i], x)
            _coefficients(alpha, upper, inner[0], inner[1])
            for d in range(width):
                mixed = u_t[d]
                for i in range(rank):
                    mixed += inner[1, i] * u[i, d]
                o[d], x[d] = D[d] * mixed, dt_t[d] * mixed
            for n in range(states):
                row, b, c = state[n], bc[0, n], bc[1, n]
                for d in range(width):
                    row[d] += b * x[d]
                    o[d] += c * row[d]
            # What one more application makes of y_t.
            _centre(o)
            inverse = real(1 / np.sqrt(_dot(o, o) / width + EPS))
            for d in range(width):
                off, large = abs(norm[0, d] * (inverse * o[d]) + norm[1, d] - y_t[d]), abs(y_t[d])
                change = off if off > change else change
                size = large if large > size else size
                if off != off:
                    change = real(np.inf)
            before = y_t
        report[q, 0], report[q, 1], report[q, 2] = most, change, size


def forward(r: Recurrence, tolerance: float, cap: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """y (L, D), the final states (S, D, N), the most steps of a token (S,), and the residual (S,)."""
    i, s0 = r.inputs, r.s0.mT.contiguous()
    y, final, report = s0.new_empty(i.u.shape), torch.empty_like(s0), s0.new_empty(len(s0), 3)
    norm = array(i.norm)
    run(
        _forward,
        len(s0),
        len(i.u) * (i.weight.numel() + 8 * i.A.numel()),
        r.bounds.numpy(),
        *(array(t) for t in (i.u, i.dt, i.p, i.A.mT, i.D, i.weight)),
        r.where,
        norm,
        norm.dtype.type(r.strength),
        r.product,
        r.rank,
        tolerance,
        cap,
        *(array(t) for t in (s0, r.y0, y, final, report)),
    )
    steps, change, size = report.unbind(1)
    residual = (change / size.clamp_min(1e-30)).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return y, final.mT.contiguous(), steps.long(), residual
