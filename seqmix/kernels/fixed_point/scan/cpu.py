"""Numba kernels for the fixed-point RNN with a mixing of low rank: one pass over time, every token solved exactly.

A work item is one sequence. The letters and formulas are those of `cell` and `low_rank`; nothing but h is stored,
the backward pass forms the gates again. L rows of all sequences, N channels, r rank, M = 2 N + r (N + 1), and N more
with v. W^T (N, R) is that of the numbers from `seen` on.
"""

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from seqmix.kernels._numba import copy, jit
from seqmix.kernels._sequences import array
from seqmix.kernels._threads import run

EPS_RMS = 0.0625
EPS_UNIT = 1e-6


@jit("reassoc")
def _dot(x, y):
    total = x[0] * y[0]
    for n in range(1, x.shape[0]):
        total += x[n] * y[n]
    return total


@jit()
def _eliminate(a, x):
    """x <- a^-1 x with row exchanges; a is overwritten."""
    r = x.shape[0]
    for i in range(r):
        best = i
        for k in range(i + 1, r):
            if abs(a[k, i]) > abs(a[best, i]):
                best = k
        if best != i:
            for j in range(i, r):
                a[i, j], a[best, j] = a[best, j], a[i, j]
            x[i], x[best] = x[best], x[i]
        for k in range(i + 1, r):
            factor = a[k, i] / a[i, i]
            for j in range(i + 1, r):
                a[k, j] -= factor * a[i, j]
            x[k] -= factor * x[i]
    for i in range(r - 1, -1, -1):
        for j in range(i + 1, r):
            x[i] -= a[i, j] * x[j]
        x[i] /= a[i, i]


@jit("reassoc")
def _gates(p_t, weight, seen, h, strength, product, gated, normed, pre, s, channel, u, small, upper, core):
    # channel: lambda, 1 - lambda, e; small: alpha, 1 / |raw|.
    rank, width = u.shape
    one = strength / strength
    for m in range(pre.shape[0]):
        pre[m] = p_t[m]
    if weight.shape[1]:
        inverse = one / np.sqrt(_dot(h, h) / width + p_t.dtype.type(EPS_RMS)) if normed else one
        told = pre[seen:]
        for n in range(width):
            s[n] = h[n] * inverse
            row, factor = weight[n], s[n]
            for m in range(row.shape[0]):
                told[m] += factor * row[m]
    for n in range(width):
        channel[0, n] = one / (one + np.exp(-pre[n]))
        channel[1, n] = one / (one + np.exp(pre[n]))
        channel[2, n] = pre[width + n] / (one + np.exp(-pre[width + n]))
        if gated:
            channel[2, n] *= pre[2 * width + n]
    at = 2 * width + gated * width
    for i in range(rank):
        row, raw = u[i], pre[at + i * width : at + (i + 1) * width]
        for n in range(width):
            row[n] = raw[n] / (one + np.exp(-raw[n]))
        small[1, i] = one / np.sqrt(_dot(row, row) + p_t.dtype.type(EPS_UNIT))
        for n in range(width):
            row[n] *= small[1, i]
        small[0, i] = strength / (one + np.exp(-pre[at + rank * width + i]))
    for i in range(rank):
        for j in range(i, rank):
            gram, total = one - one, one - one
            for n in range(width):
                total += u[i, n] * u[j, n]
                gram += u[i, n] * channel[1, n] * u[j, n]
            upper[i, j] = total if product and j > i else one - one
            core[i, j] = small[0, i] * (upper[i, j] - gram)
            if j > i:
                core[j, i] = -small[0, j] * gram
        core[i, i] += one


@jit()
def _forward(first, last, bounds, p, weight, seen, strength, product, gated, normed, rank, initial, h, final):
    width, size = initial.shape[1], p.shape[1]
    pre, s, d = np.empty(size, p.dtype), np.empty(width, p.dtype), np.empty(width, p.dtype)
    channel, u = np.empty((3, width), p.dtype), np.empty((rank, width), p.dtype)
    small, upper, core = np.empty((3, rank), p.dtype), np.empty((rank, rank), p.dtype), np.empty((rank, rank), p.dtype)
    zero = strength - strength
    for q in range(first, last):
        state = final[q]
        copy(initial[q], state)
        for t in range(bounds[q], bounds[q + 1]):
            _gates(p[t], weight, seen, state, strength, product, gated, normed, pre, s, channel, u, small, upper, core)
            for n in range(width):
                d[n] = channel[0, n] * (state[n] - channel[2, n])
            for i in range(rank):
                small[2, i] = small[0, i] * _dot(u[i], d)
            _eliminate(core, small[2])
            for n in range(width):
                mixed = zero
                for i in range(rank):
                    mixed += small[2, i] * u[i, n]
                state[n] = channel[2, n] + d[n] + channel[1, n] * mixed
            copy(state, h[t])


@jit("reassoc")
def _backward(
    first, last, bounds, p, weight, seen, strength, product, gated, normed, rank, initial, h, dh, dfinal, dp, dinitial
):
    width, size = initial.shape[1], p.shape[1]
    one, zero = strength / strength, strength - strength
    pre, s, v = np.empty(size, p.dtype), np.empty(width, p.dtype), np.empty(width, p.dtype)
    channel, u = np.empty((3, width), p.dtype), np.empty((rank, width), p.dtype)
    small, upper, core = np.empty((2, rank), p.dtype), np.empty((rank, rank), p.dtype), np.empty((rank, rank), p.dtype)
    # eta, omega, U w less what it owes, U e less what it owes
    inner, turned = np.empty((4, rank), p.dtype), np.empty((rank, rank), p.dtype)
    w, e, du = np.empty(width, p.dtype), np.empty(width, p.dtype), np.empty(width, p.dtype)
    at = 2 * width + gated * width
    for q in range(first, last):
        carry = dinitial[q]
        copy(dfinal[q], carry)
        for t in range(bounds[q + 1] - 1, bounds[q] - 1, -1):
            # The gates of the token again.
            before = initial[q] if t == bounds[q] else h[t - 1]
            _gates(p[t], weight, seen, before, strength, product, gated, normed, pre, s, channel, u, small, upper, core)
            # v_t = M_t^-T (g_t + what the token after sends), by a system of size r.
            for n in range(width):
                v[n] = dh[t, n] + carry[n]
                w[n] = channel[1, n] * v[n]
                e[n] = h[t, n] - channel[2, n]
            for i in range(rank):
                inner[0, i] = _dot(u[i], w)
                for j in range(rank):
                    turned[i, j] = core[j, i]
            _eliminate(turned, inner[0])
            for i in range(rank):
                inner[0, i] *= small[0, i]
                for n in range(width):
                    v[n] += inner[0, i] * u[i, n]
            # eta and omega: what K^T makes of (1 - lambda) v and K of h - e, in the basis U.
            for n in range(width):
                w[n] = channel[1, n] * v[n]
            for i in range(rank):
                inner[2, i], inner[3, i] = _dot(u[i], w), _dot(u[i], e)
            for i in range(rank):
                for j in range(i):
                    inner[2, i] -= upper[j, i] * inner[0, j]
                inner[0, i] = small[0, i] * inner[2, i]
            for i in range(rank - 1, -1, -1):
                for j in range(i + 1, rank):
                    inner[3, i] -= upper[i, j] * inner[1, j]
                inner[1, i] = small[0, i] * inner[3, i]
            # To the pre-activations of lambda, b and v.
            dp_t = dp[t]
            for n in range(width):
                back, target = zero, zero
                for i in range(rank):
                    back += inner[0, i] * u[i, n]
                    target += inner[1, i] * u[i, n]
                ddecay = v[n] * (before[n] - channel[2, n] - target)
                dp_t[n] = ddecay * channel[0, n] * channel[1, n]
                x = pre[width + n]
                gate = one / (one + np.exp(-x))
                de = w[n] - back
                if gated:
                    dp_t[2 * width + n] = de * x * gate
                    de *= pre[2 * width + n]
                dp_t[width + n] = de * gate * (one + x * (one - gate))
            # To those of the mixing: directions through their unit length and silu, then strengths.
            for i in range(rank):
                for n in range(width):
                    du[n] = inner[1, i] * w[n] + inner[0, i] * e[n]
                if product:
                    for j in range(rank):
                        if j != i:
                            both = inner[0, i] * inner[1, j] if j > i else inner[0, j] * inner[1, i]
                            for n in range(width):
                                du[n] -= both * u[j, n]
                along = _dot(u[i], du)
                for n in range(width):
                    x = pre[at + i * width + n]
                    gate = one / (one + np.exp(-x))
                    draw = small[1, i] * (du[n] - u[i, n] * along)
                    dp_t[at + i * width + n] = draw * gate * (one + x * (one - gate))
                alpha = small[0, i]
                dp_t[at + rank * width + i] = inner[2, i] * inner[3, i] * alpha * (one - alpha / strength)
            # To the state before: through the decay, and through W and the norm.
            for n in range(width):
                carry[n] = channel[0, n] * v[n]
            if weight.shape[1]:
                inverse, mean = one, zero
                for n in range(width):
                    du[n] = _dot(weight[n], dp_t[seen : seen + weight.shape[1]])
                if normed:
                    # Back through s = h / rms(h).
                    inverse = one / np.sqrt(_dot(before, before) / width + p.dtype.type(EPS_RMS))
                    mean = _dot(s, du) / width
                for n in range(width):
                    carry[n] += inverse * (du[n] - s[n] * mean)


class Problem(NamedTuple):
    """One recurrence: p (L, M), W^T (N, R) of the numbers from `seen` on, h_0 (S, N) and the cell's constants."""

    p: Tensor
    weight: Tensor
    seen: int
    initial: Tensor
    bounds: Tensor
    rank: int
    strength: float
    product: bool
    gated: bool
    normed: bool

    def _inputs(self) -> tuple[Any, ...]:
        p = array(self.p)
        constants = (self.seen, p.dtype.type(self.strength), self.product, self.gated, self.normed, self.rank)
        return self.bounds.numpy(), p, array(self.weight), *constants, array(self.initial)

    def _work(self) -> int:
        return len(self.p) * (8 * self.p.shape[1] + self.weight.numel())

    def forward(self) -> tuple[Tensor, Tensor]:
        """h (L, N) and the final states (S, N)."""
        h = self.p.new_empty(len(self.p), self.initial.shape[1])
        final = torch.empty_like(self.initial, memory_format=torch.contiguous_format)
        run(_forward, len(final), self._work(), *self._inputs(), h.numpy(), final.numpy())
        return h, final

    def backward(self, h: Tensor, dh: Tensor, dfinal: Tensor) -> tuple[Tensor, Tensor]:
        """The gradients of p (L, M) and of the initial states (S, N)."""
        dp, dinitial = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (self.p, self.initial))
        given = (array(x) for x in (h, dh, dfinal))
        run(_backward, len(dinitial), 2 * self._work(), *self._inputs(), *given, dp.numpy(), dinitial.numpy())
        return dp, dinitial
