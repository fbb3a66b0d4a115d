"""Numba kernels for the gather recurrence: one pass over memory, N additions to places that a token names.

A work item is one sequence; states see each other, so that they are not cut. Indices are unsigned, or Numba would ask
of each whether it counts from the end. Letters: L rows of all sequences, S sequences, N states.
"""

import numpy as np
from torch import Tensor

from seqmix.kernels._memory import empty_like
from seqmix.kernels._numba import jit
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import run
from seqmix.kernels.gather_scan.api import check_index

OP = "gather_scan"


@jit()
def _forward(first, last, bounds, index, d, x, initial, h, final):
    states = x.shape[1]
    for s in range(first, last):
        before = initial[s]
        for t in range(bounds[s], bounds[s + 1]):
            here, to, factor = h[t], index[t], d[t]
            for n in range(states):
                here[n] = x[t, n]
            for n in range(states):
                here[to[n]] += factor[n] * before[n]
            before = here
        for n in range(states):
            final[s, n] = before[n]


@jit()
def _backward(first, last, bounds, index, d, h, initial, dh, dfinal, dd, dx, dinitial):
    # carry is what flows into h_t from the step after it.
    states = h.shape[1]
    carry = np.empty(states, h.dtype)
    for s in range(first, last):
        start = bounds[s]
        for n in range(states):
            carry[n] = dfinal[s, n]
        for t in range(bounds[s + 1] - 1, start - 1, -1):
            adjoint, to, factor, ddecay = dx[t], index[t], d[t], dd[t]
            before = initial[s] if t == start else h[t - 1]
            for n in range(states):
                adjoint[n] = dh[t, n] + carry[n]
            for n in range(states):
                g = adjoint[to[n]]
                ddecay[n] = np.conj(before[n]) * g
                carry[n] = np.conj(factor[n]) * g
        for n in range(states):
            dinitial[s, n] = carry[n]


def forward(
    index: Tensor, d: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor]:
    """h (B, T, N) and the final state (S, N); d, x and the state of one type, index int32."""
    check_index(index)
    bounds, h, final = offsets(OP, x, cu_seqlens), empty_like(x), empty_like(initial_state)
    given = (bounds, rows(index).view(np.uint32), rows(d), rows(x), array(initial_state))
    run(_forward, len(bounds) - 1, 2 * x.numel(), *given, h.flatten(0, 1).numpy(), final.numpy())
    return h, final


def backward(
    dh: Tensor, dfinal: Tensor, index: Tensor, d: Tensor, h: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of d, x and the initial state: s_t = dh_t + u_t with u_{t-1}[n] = conj(d_t[n]) s_t[index_t[n]]."""
    bounds, dd, dx, dinitial = offsets(OP, h, cu_seqlens), empty_like(d), empty_like(h), empty_like(initial_state)
    given = (bounds, rows(index).view(np.uint32), rows(d), rows(h), array(initial_state), rows(dh), array(dfinal))
    made = (dd.flatten(0, 1).numpy(), dx.flatten(0, 1).numpy(), dinitial.numpy())
    run(_backward, len(bounds) - 1, 4 * h.numel(), *given, *made)
    return dd, dx, dinitial
