"""Triton kernels for the loop of the sLSTM: a program walks one head of one sequence, all its units in registers.

What R makes of h is a sum down the rows of four tiles (N, N), which are read again at every step, from the cache:
registers do not hold them. Gates and cells of all steps are kept, as the CPU kernels keep them, so that the backward
pass walks adjoints only; the gradient of R is one product after it. Time is not cut: the recurrence is not linear.
Letters: N units of a head.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._loops import shifted
from seqmix.kernels._triton import RUNTIME, fresh, launch, span, tanh, whole_sequences

OP = "sLSTM"


@triton.jit
def _log1p(x):
    # For x in [0, 1]: the rounding of 1 + x is taken back (Goldberg, theorem 4).
    u = 1 + x
    return tl.where(u == 1, x, tl.log(u) * (x / tl.where(u == 1, 1.0, u - 1)))


@triton.jit
def _forget(f, m_before, n_before):
    """log sigmoid(f) + m of the step before, and whether there was one."""
    kept = tl.minimum(f, 0.0) - _log1p(tl.exp(-tl.abs(f))) + m_before
    return kept, n_before != 0


@triton.jit
def _gate(p_p, p_R, o_gate, o_tile, b_h, mask, mask_tile):
    """What a gate is before its function (BN,), of x and of h before."""
    b_tile = tl.load(p_R + o_tile, mask=mask_tile, other=0.0)  # (BN, BN)
    b_x = tl.load(p_p + o_gate, mask=mask, other=0.0)  # (BN,)
    return b_x + tl.sum(b_h[:, None] * b_tile, 0)


@triton.jit(do_not_specialize=RUNTIME)
def _forward(
    p_p, p_R, p_initial, p_h, p_cells, p_gates, p_final, p_offsets, length, chunk, chunks, heads, units,
    BN: tl.constexpr,
):  # fmt: skip
    i_s, i_h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    o_n = tl.arange(0, BN)
    mask = o_n < units
    mask_tile = mask[:, None] & mask[None, :]
    o_tile = (i_h * units + o_n[:, None]) * 4 * units + o_n[None, :]
    o_state, step = (i_s * 4 * heads + i_h) * units + o_n, heads * units
    first, last = span(i_s, p_offsets, length, chunk, chunks)
    # The state; lanes of no unit begin with n = 1, so that nothing is divided by zero there.
    b_h = tl.load(p_initial + o_state, mask=mask, other=0.0)  # (BN,)
    b_c = tl.load(p_initial + o_state + step, mask=mask, other=0.0)  # (BN,)
    b_n = tl.load(p_initial + o_state + 2 * step, mask=mask, other=1.0)  # (BN,)
    b_m = tl.load(p_initial + o_state + 3 * step, mask=mask, other=0.0)  # (BN,)
    for t in range(first, last):
        o_row = (t * heads + i_h) * units + o_n
        o_gate = o_row + 3 * (t * heads + i_h) * units
        b_i = _gate(p_p, p_R, o_gate, o_tile, b_h, mask, mask_tile)
        b_f = _gate(p_p, p_R, o_gate + units, o_tile + units, b_h, mask, mask_tile)
        b_z = _gate(p_p, p_R, o_gate + 2 * units, o_tile + 2 * units, b_h, mask, mask_tile)
        b_o = _gate(p_p, p_R, o_gate + 3 * units, o_tile + 3 * units, b_h, mask, mask_tile)
        tl.store(p_gates + o_gate, b_i, mask=mask)
        tl.store(p_gates + o_gate + units, b_f, mask=mask)
        tl.store(p_gates + o_gate + 2 * units, b_z, mask=mask)
        tl.store(p_gates + o_gate + 3 * units, b_o, mask=mask)
        # The cell.
        kept, begun = _forget(b_f, b_m, b_n)
        most = tl.where(begun & (kept > b_i), kept, b_i)
        forget, write = tl.where(begun, tl.exp(kept - most), 0.0), tl.exp(b_i - most)
        b_c = forget * b_c + write * tanh(b_z)
        b_n = forget * b_n + write
        b_m = most
        b_h = b_c / b_n / (1 + tl.exp(-b_o))
        o_cell = o_row + 2 * (t * heads + i_h) * units
        tl.store(p_h + o_row, b_h, mask=mask)
        tl.store(p_cells + o_cell, b_c, mask=mask)
        tl.store(p_cells + o_cell + units, b_n, mask=mask)
        tl.store(p_cells + o_cell + 2 * units, b_m, mask=mask)
    # The last state.
    tl.store(p_final + o_state, b_h, mask=mask)
    tl.store(p_final + o_state + step, b_c, mask=mask)
    tl.store(p_final + o_state + 2 * step, b_n, mask=mask)
    tl.store(p_final + o_state + 3 * step, b_m, mask=mask)


@triton.jit
def _pulled(p_R, o_tile, b_gate, mask_tile):
    """The gradient of h (BN,) that a gate hands on."""
    b_tile = tl.load(p_R + o_tile, mask=mask_tile, other=0.0)  # (BN, BN)
    return tl.sum(b_tile * b_gate[None, :], 1)


@triton.jit
def _before(p_cells, p_initial, o_cell, o_state, mask, later, OTHER: tl.constexpr):
    """A row of the cells before a step (BN,), at the first one of the initial state."""
    b_before = tl.load(p_cells + o_cell, mask=mask & later, other=0.0)  # (BN,)
    b_start = tl.load(p_initial + o_state, mask=mask & ~later, other=0.0)  # (BN,)
    return tl.where(mask, b_before + b_start, OTHER)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    p_dh, p_dfinal, p_R, p_initial, p_cells, p_gates, p_dgates, p_dinitial,
    p_offsets, length, chunk, chunks, heads, units,
    BN: tl.constexpr,
):  # fmt: skip
    i_s, i_h = (tl.program_id(0) // heads).to(tl.int64), tl.program_id(0) % heads
    o_n = tl.arange(0, BN)
    mask = o_n < units
    mask_tile = mask[:, None] & mask[None, :]
    o_tile = (i_h * units + o_n[:, None]) * 4 * units + o_n[None, :]
    o_state, step = (i_s * 4 * heads + i_h) * units + o_n, heads * units
    first, last = span(i_s, p_offsets, length, chunk, chunks)
    # Adjoints of the state.
    b_dh = tl.load(p_dfinal + o_state, mask=mask, other=0.0)  # (BN,)
    b_dc = tl.load(p_dfinal + o_state + step, mask=mask, other=0.0)  # (BN,)
    b_dn = tl.load(p_dfinal + o_state + 2 * step, mask=mask, other=0.0)  # (BN,)
    b_dm = tl.load(p_dfinal + o_state + 3 * step, mask=mask, other=0.0)  # (BN,)
    for k in range(last - first):
        t = last - 1 - k
        o_row = (t * heads + i_h) * units + o_n
        o_gate = o_row + 3 * (t * heads + i_h) * units
        o_cell = o_row + 2 * (t * heads + i_h) * units
        b_i = tl.load(p_gates + o_gate, mask=mask, other=0.0)  # (BN,)
        b_f = tl.load(p_gates + o_gate + units, mask=mask, other=0.0)  # (BN,)
        b_z = tl.load(p_gates + o_gate + 2 * units, mask=mask, other=0.0)  # (BN,)
        b_o = tl.load(p_gates + o_gate + 3 * units, mask=mask, other=0.0)  # (BN,)
        b_c = tl.load(p_cells + o_cell, mask=mask, other=0.0)  # (BN,)
        b_n = tl.load(p_cells + o_cell + units, mask=mask, other=1.0)  # (BN,)
        b_m = tl.load(p_cells + o_cell + 2 * units, mask=mask, other=0.0)  # (BN,)
        later = t + 0 * o_n > first  # a row, as masks are
        o_last = o_cell - 3 * step
        c_before = _before(p_cells, p_initial, o_last, o_state + step, mask, later, 0.0)
        n_before = _before(p_cells, p_initial, o_last + units, o_state + 2 * step, mask, later, 1.0)
        m_before = _before(p_cells, p_initial, o_last + 2 * units, o_state + 3 * step, mask, later, 0.0)
        # The cell again, and what flows through it.
        kept, begun = _forget(b_f, m_before, n_before)
        forget, write = tl.where(begun, tl.exp(kept - b_m), 0.0), tl.exp(b_i - b_m)
        from_f = begun & (kept > b_i)
        squashed, opened = tanh(b_z), 1 / (1 + tl.exp(-b_o))
        b_upstream = tl.load(p_dh + o_row, mask=mask, other=0.0)  # (BN,)
        g, ratio = b_upstream + b_dh, b_c / b_n
        into_c, into_n = b_dc + g * opened / b_n, b_dn - g * opened * ratio / b_n
        into_m = b_dm - (into_c * b_c + into_n * b_n)
        dlog_f = (into_c * c_before + into_n * n_before) * forget + tl.where(from_f, into_m, 0.0)
        # Gradients of the gates, and of the state before.
        e = tl.exp(-tl.abs(b_f))
        di = (into_c * squashed + into_n) * write + tl.where(from_f, 0.0, into_m)
        df = dlog_f * tl.where(b_f > 0, e, 1.0) / (1 + e)
        dz = into_c * write * (1 - squashed * squashed)
        do = g * ratio * opened * (1 - opened)
        tl.store(p_dgates + o_gate, di, mask=mask)
        tl.store(p_dgates + o_gate + units, df, mask=mask)
        tl.store(p_dgates + o_gate + 2 * units, dz, mask=mask)
        tl.store(p_dgates + o_gate + 3 * units, do, mask=mask)
        b_dh = _pulled(p_R, o_tile, di, mask_tile) + _pulled(p_R, o_tile + units, df, mask_tile)
        b_dh += _pulled(p_R, o_tile + 2 * units, dz, mask_tile) + _pulled(p_R, o_tile + 3 * units, do, mask_tile)
        b_dc, b_dn, b_dm = into_c * forget, into_n * forget, dlog_f
    # What the first step hands on.
    tl.store(p_dinitial + o_state, b_dh, mask=mask)
    tl.store(p_dinitial + o_state + step, b_dc, mask=mask)
    tl.store(p_dinitial + o_state + 2 * step, b_dn, mask=mask)
    tl.store(p_dinitial + o_state + 3 * step, b_dm, mask=mask)


def _run(kernel: Any, like: Tensor, cu_seqlens: Tensor | None, *tensors: Tensor) -> None:
    heads, units = like.shape[2], like.shape[-1]
    spans, width = whole_sequences(OP, like, cu_seqlens), triton.next_power_of_2(units)
    launch(
        kernel,
        spans.number * heads,
        *(tensor.detach().contiguous() for tensor in tensors),
        *spans.arguments,
        heads,
        units,
        BN=width,
        num_warps=min(16, max(1, width * width // 1024)),
        enable_fp_fusion=False,
    )


def forward(p: Tensor, R: Tensor, state: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h (B, T, H, N), the final state (S, 4, H, N), and of all steps c, n, m (B, T, H, 3, N) and gates (like p)."""
    h, final, gates = fresh(p, *p.shape[:3], p.shape[-1]), fresh(state), fresh(p)
    cells = fresh(p, *h.shape[:3], 3, h.shape[-1])
    _run(_forward, p, cu_seqlens, p, R, state, h, cells, gates, final)
    return h, final, cells, gates


def backward(
    dh: Tensor, dfinal: Tensor, R: Tensor, state: Tensor, h: Tensor, cells: Tensor, gates: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of p, R and the initial state."""
    dgates, dstate = fresh(gates), fresh(state)
    _run(_backward, h, cu_seqlens, dh, dfinal, R, state, cells, gates, dgates, dstate)
    before = shifted(h, state[:, 0], cu_seqlens).flatten(0, 1).transpose(0, 1)  # (H, L, N)
    with torch.autocast(h.device.type, enabled=False):
        dR = (before.mT @ dgates.flatten(3).flatten(0, 1).transpose(0, 1)).view_as(R)
    return dgates, dR, dstate
