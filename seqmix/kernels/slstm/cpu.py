"""Numba kernels for the loop of the sLSTM: a work item is one head of one sequence.

In the forward pass what R makes of h is summed over units of h in their order, four rows of gates at a time, so that
nothing depends on how a sequence is cut. The backward pass forms the gates of all steps at once and walks adjoints
only. m_t is the larger of i and log f + m_{t-1}, and receives dm - (dc c + dn n), which is zero where only h is used.
Letters: L rows of all sequences, N units of a head.
"""

import math

import numpy as np
import torch
from torch import Tensor

from seqmix.kernels._loops import shifted
from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import jit
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import run

OP = "sLSTM"
C, N, M = range(3)  # rows of cells; a state has h in front


@jit()
def _log_sigmoid(x):
    return min(x, 0) - math.log1p(math.exp(-abs(x)))


@jit()
def _sigmoid(x):
    return 1 / (1 + math.exp(-x))


@jit()
def _forward(first, last, heads, bounds, p, R, initial, h, cells, final):
    units = R.shape[1]
    hidden, gates, cell = np.zeros(units, p.dtype), np.zeros(4 * units, p.dtype), np.zeros((3, units), p.dtype)
    for item in range(first, last):
        s, k = item // heads, item % heads
        for j in range(units):
            hidden[j] = initial[s, 0, k, j]
            cell[C, j], cell[N, j], cell[M, j] = initial[s, 1, k, j], initial[s, 2, k, j], initial[s, 3, k, j]
        for t in range(bounds[s], bounds[s + 1]):
            for e in range(4 * units):
                gates[e] = p[t, k, e]
            for j in range(units):
                u, weights = hidden[j], R[k, j]
                for e in range(4 * units):
                    gates[e] += u * weights[e]
            for j in range(units):
                i, kept, n = gates[j], _log_sigmoid(gates[units + j]) + cell[M, j], cell[N, j]
                forget, most = 0.0, i
                if n != 0:
                    most = kept if kept > i else i
                    forget = math.exp(kept - most)
                write = math.exp(i - most)
                cell[C, j] = forget * cell[C, j] + write * math.tanh(gates[2 * units + j])
                cell[N, j] = forget * n + write
                cell[M, j] = most
                hidden[j] = _sigmoid(gates[3 * units + j]) * cell[C, j] / cell[N, j]
                h[t, k, j] = hidden[j]
            cells[t, k] = cell
        for j in range(units):
            final[s, 0, k, j] = hidden[j]
            final[s, 1, k, j], final[s, 2, k, j], final[s, 3, k, j] = cell[C, j], cell[N, j], cell[M, j]


@jit()
def _backward(first, last, heads, bounds, gates, Rt, initial, cells, dh, dfinal, dgates, dinitial):
    units = Rt.shape[2]
    hidden, carry = np.zeros(units, gates.dtype), np.zeros((3, units), gates.dtype)  # adjoints
    for item in range(first, last):
        s, k = item // heads, item % heads
        for j in range(units):
            hidden[j] = dfinal[s, 0, k, j]
            carry[C, j], carry[N, j], carry[M, j] = dfinal[s, 1, k, j], dfinal[s, 2, k, j], dfinal[s, 3, k, j]
        for t in range(bounds[s + 1] - 1, bounds[s] - 1, -1):
            cell, gate, dgate = cells[t, k], gates[t, k], dgates[t, k]
            for j in range(units):
                before_c, before_n, before_m = initial[s, 1, k, j], initial[s, 2, k, j], initial[s, 3, k, j]
                if t > bounds[s]:
                    before_c, before_n, before_m = cells[t - 1, k, C, j], cells[t - 1, k, N, j], cells[t - 1, k, M, j]
                c, n, m = cell[C, j], cell[N, j], cell[M, j]
                i, kept = gate[j], _log_sigmoid(gate[units + j]) + before_m
                z, o = math.tanh(gate[2 * units + j]), _sigmoid(gate[3 * units + j])
                write, g = math.exp(i - m), dh[t, k, j] + hidden[j]
                dc, dn = carry[C, j] + g * o / n, carry[N, j] - g * o * c / (n * n)
                dm = carry[M, j] - (dc * c + dn * n)
                di, dlog_f, forget = (dc * z + dn) * write, 0.0, 0.0
                if before_n != 0:
                    forget = math.exp(kept - m)
                    dlog_f = (dc * before_c + dn * before_n) * forget
                if before_n != 0 and kept > i:
                    dlog_f += dm
                else:
                    di += dm
                dgate[j] = di
                dgate[units + j] = dlog_f * _sigmoid(-gate[units + j])
                dgate[2 * units + j] = dc * write * (1 - z * z)
                dgate[3 * units + j] = g * c / n * o * (1 - o)
                carry[C, j], carry[N, j], carry[M, j] = dc * forget, dn * forget, dlog_f
            for j in range(units):
                hidden[j] = 0
            for e in range(4 * units):
                u, weights = dgate[e], Rt[k, e]
                for j in range(units):
                    hidden[j] += u * weights[j]
        for j in range(units):
            dinitial[s, 0, k, j] = hidden[j]
            dinitial[s, 1, k, j], dinitial[s, 2, k, j], dinitial[s, 3, k, j] = carry[C, j], carry[N, j], carry[M, j]


def forward(p: Tensor, R: Tensor, state: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """h (B, T, H, N), the final state (S, 4, H, N) and c, n, m after every step (B, T, H, 3, N)."""
    bounds, heads = offsets(OP, p, cu_seqlens), p.shape[2]
    h, final = p.new_empty(*p.shape[:3], p.shape[-1]), empty_like(state)
    cells = p.new_empty(*h.shape[:3], 3, h.shape[-1])
    given = (heads, bounds, rows(p.flatten(3)), array(R.flatten(2)), array(state))
    made = (h.flatten(0, 1).numpy(), cells.flatten(0, 1).numpy(), final.numpy())
    run(_forward, (len(bounds) - 1) * heads, p.numel() * (p.shape[-1] + 50), *given, *made)
    return h, final, cells


def backward(
    dh: Tensor,
    dfinal: Tensor,
    p: Tensor,
    R: Tensor,
    state: Tensor,
    h: Tensor,
    cells: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of p, R and the initial state."""
    bounds, heads = offsets(OP, p, cu_seqlens), p.shape[2]
    before = shifted(h, state[:, 0], cu_seqlens).flatten(0, 1).transpose(0, 1)  # (H, L, N)
    with torch.autocast(p.device.type, enabled=False):
        gates = p.flatten(3).flatten(0, 1) + (before @ R.flatten(2)).transpose(0, 1)  # (L, H, 4 N)
        dgates, dstate = torch.empty_like(gates), empty_like(state)
        given = (heads, bounds, gates.numpy(), array(R.flatten(2).mT), array(state), rows(cells))
        made = (rows(dh), array(dfinal), dgates.numpy(), dstate.numpy())
        run(_backward, (len(bounds) - 1) * heads, p.numel() * (p.shape[-1] + 80), *given, *made)
        dR = (before.mT @ dgates.transpose(0, 1)).view_as(R)
    return dgates.view(p.shape), dR, dstate
