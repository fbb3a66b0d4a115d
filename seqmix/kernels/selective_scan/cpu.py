"""The selective scan on a CPU: arrays for the Numba kernels in `cpu_kernels`, and parts for threads."""

from functools import partial

import numpy as np
import torch
from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels._in_place import final_like
from seqmix.kernels._memory import empty_like
from seqmix.kernels._sequences import array, offsets, rows
from seqmix.kernels._threads import run
from seqmix.kernels.selective_scan import cpu_kernels as kernels
from seqmix.kernels.selective_scan.cpu_kernels import CHUNK, WIDTH

OP = "selective_scan"


border_shape = partial(_borders.border_shape, CHUNK)


def _split(items: int, parts: int) -> np.ndarray:
    return np.arange(parts + 1) * items // parts


def _inputs(x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, state: Tensor, signed: bool):
    scale, shift = np.array([2, -1] if signed else [1, 0], dtype=array(D).dtype)
    return rows(x), rows(dt), array(A), rows(B), rows(C), array(D), (scale, shift), array(state)


def forward(
    x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
    signed: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """y (B, T, D), the final state (S, D, N) and the borders (slots, N, D) in one row; all of one type."""
    bounds = offsets(OP, x, cu_seqlens)
    channels, states = A.shape
    blocks = -(-channels // WIDTH)
    y = empty_like(x)
    final = final_like(initial_state)
    state = (states, channels)
    borders = x.new_zeros(border_shape(x.shape, len(initial_state), state))
    run(
        kernels.forward,
        (len(bounds) - 1) * blocks,
        8 * x.numel() * states,
        blocks,
        bounds,
        _borders.first_slots(CHUNK, bounds),
        *_inputs(x, dt, A, B, C, D, initial_state, signed),
        y.flatten(0, 1).numpy(),
        final.numpy(),
        _borders.as_borders(borders, state),
    )
    return y, final, borders


def backward(
    dy: Tensor, dfinal: Tensor, x: Tensor, dt: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None, signed: bool,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of x, dt, A, B, C, D and the initial state.

    With g_t = C_t dy_t + a_{t+1} g_{t+1}: dB_t = sum_d g_t dt_t x_t, dC_t = sum_d dy_t s_t, and the exponent's
    gradient g_t s_{t-1} da/d(dt A) goes to dt and to A.
    """
    bounds = offsets(OP, x, cu_seqlens)
    sequences, length = len(bounds) - 1, int(bounds[-1])
    channels, states = A.shape
    blocks = -(-channels // WIDTH)
    # Each thread gets a group of channels, and where those run out a group of sequences. Sums over channels (dB, dC)
    # and over sequences (dA, dD) have one part for each group, so nothing races and the order of addition is fixed.
    threads = torch.get_num_threads()
    groups = min(blocks, threads)
    sequence_groups = min(sequences, -(-threads // groups))
    dx, ddt, dinitial = (empty_like(t) for t in (x, dt, initial_state))
    dA, dD = x.new_zeros(sequence_groups, channels, states), x.new_zeros(sequence_groups, channels)
    dB, dC = x.new_zeros(groups, length, states), x.new_zeros(groups, length, states)
    run(
        kernels.backward,
        groups * sequence_groups,
        16 * x.numel() * states,
        groups,
        _split(blocks, groups),
        _split(sequences, sequence_groups),
        bounds,
        _borders.first_slots(CHUNK, bounds),
        *_inputs(x, dt, A, B, C, D, initial_state, signed),
        _borders.as_borders(borders, (states, channels)),
        rows(dy),
        array(dfinal),
        dx.flatten(0, 1).numpy(),
        ddt.flatten(0, 1).numpy(),
        *(part.numpy() for part in (dA, dB, dC, dD)),
        dinitial.numpy(),
    )
    return dx, ddt, dA.sum(0), dB.sum(0).view_as(B), dC.sum(0).view_as(C), dD.sum(0), dinitial
