"""Triton kernels for the selective rotation: running angles in turns, summed in double precision, modulo one.

A program owns one span and a block of angles, and goes over tiles of time: a tile's increments are summed in a tree,
added to the carry, and brought back to half a turn around zero, which loses nothing; cosine and sine then see a small
angle in the type of the state. Where spans are chunks, the sums of the increments of each come first and the relay of
`diagonal_scan` adds them up. The backward pass walks back from the last angle. Letters: L rows of all sequences, C
spans, A = H K/2 angles.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import (
    RUNTIME,
    Spans,
    chunk_length,
    cut,
    fresh,
    lanes,
    launch,
    program_of,
    span,
    whole_sequences,
)
from seqmix.kernels.diagonal_scan.triton import relay

OP = "selective_rotary"
TURN = 2 * math.pi


@triton.jit
def _wrap(turns):
    return turns - tl.floor(turns + 0.5)


@triton.jit
def _row(tile, chosen):
    return tl.sum(tl.where(chosen, tile, 0.0), 0)


@triton.jit(do_not_specialize=RUNTIME)
def _forward(
    p_q, p_k, p_omega, p_initial, p_turned_q, p_turned_k, p_final, p_offsets, length, chunk, chunks, angles, half,
    BT: tl.constexpr, BA: tl.constexpr, ACC: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    # Without `p_turned_q` only `p_final`, the sum of the increments of the span, is wanted.
    i_span, o_a = program_of(angles, BA)
    mask_c = o_a < angles
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    o_step = tl.arange(0, BT)
    is_last = (o_step == BT - 1)[:, None]
    o_place = (o_a // half) * 2 * half + o_a % half
    if p_initial is None:
        b_carry = tl.zeros((BA,), tl.float64)
    else:
        b_carry = tl.load(p_initial + i_span * angles + o_a, mask=mask_c, other=0.0)  # (BA,)
    for start in tl.range(first, last, BT, num_stages=2):
        o_t = start + o_step
        mask = (o_t < last)[:, None] & mask_c[None, :]
        # (BT, BA)
        b_turns = tl.load(p_omega + o_t[:, None] * angles + o_a[None, :], mask=mask, other=0.0).to(tl.float64) / TURN
        b_turns = _wrap(b_carry[None, :] + tl.cumsum(_wrap(b_turns), 0))
        b_carry = _row(b_turns, is_last)
        if p_turned_q is not None:
            angle = (b_turns * TURN).to(ACC)
            cos, sin = tl.cos(angle), tl.sin(angle)
            o_here = o_t[:, None] * (2 * angles) + o_place[None, :]
            b_q0 = tl.load(p_q + o_here, mask=mask, other=0.0).to(ACC)  # (BT, BA)
            b_q1 = tl.load(p_q + o_here + half, mask=mask, other=0.0).to(ACC)  # (BT, BA)
            tl.store(p_turned_q + o_here, (b_q0 * cos - b_q1 * sin).to(p_q.dtype.element_ty), mask=mask)
            tl.store(p_turned_q + o_here + half, (b_q0 * sin + b_q1 * cos).to(p_q.dtype.element_ty), mask=mask)
            b_k0 = tl.load(p_k + o_here, mask=mask, other=0.0).to(ACC)  # (BT, BA)
            b_k1 = tl.load(p_k + o_here + half, mask=mask, other=0.0).to(ACC)  # (BT, BA)
            tl.store(p_turned_k + o_here, (b_k0 * cos - b_k1 * sin).to(p_k.dtype.element_ty), mask=mask)
            tl.store(p_turned_k + o_here + half, (b_k0 * sin + b_k1 * cos).to(p_k.dtype.element_ty), mask=mask)
    tl.store(p_final + i_span * angles + o_a, b_carry, mask=mask_c)


@triton.jit
def _turn_back(p_x, p_upstream, p_dx, o_here, half, cos, sin, mask, ACC: tl.constexpr):
    """Store dx = upstream turned back; returns what that contributes to the gradient of the angle."""
    b_u0 = tl.load(p_upstream + o_here, mask=mask, other=0.0).to(ACC)  # (BT, BA)
    b_u1 = tl.load(p_upstream + o_here + half, mask=mask, other=0.0).to(ACC)  # (BT, BA)
    b_x0 = tl.load(p_x + o_here, mask=mask, other=0.0).to(ACC)  # (BT, BA)
    b_x1 = tl.load(p_x + o_here + half, mask=mask, other=0.0).to(ACC)  # (BT, BA)
    b_d0, b_d1 = b_u0 * cos + b_u1 * sin, b_u1 * cos - b_u0 * sin
    tl.store(p_dx + o_here, b_d0.to(p_dx.dtype.element_ty), mask=mask)
    tl.store(p_dx + o_here + half, b_d1.to(p_dx.dtype.element_ty), mask=mask)
    return tl.where(mask, b_d1 * b_x0 - b_d0 * b_x1, 0.0)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    p_q, p_k, p_omega, p_end, p_dturned_q, p_dturned_k, p_dfinal, p_dq, p_dk, p_domega, p_dinitial,
    p_offsets, length, chunk, chunks, angles, half,
    BT: tl.constexpr, BA: tl.constexpr, ACC: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    # Rows of a tile run back in time. Without `p_dfinal` sums of gradients start from zero at the end of the span.
    i_span, o_a = program_of(angles, BA)
    mask_c = o_a < angles
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    o_step = tl.arange(0, BT)
    is_last = (o_step == BT - 1)[:, None]
    o_place = (o_a // half) * 2 * half + o_a % half
    b_carry = tl.load(p_end + i_span * angles + o_a, mask=mask_c, other=0.0)  # (BA,)
    if p_dfinal is None:
        b_total = tl.zeros((BA,), tl.float64)
    else:
        b_total = tl.load(p_dfinal + i_span * angles + o_a, mask=mask_c, other=0.0).to(tl.float64)  # (BA,)
    for start in tl.range(first, last, BT, num_stages=2):
        o_t = last - 1 - (start - first) - o_step
        mask = (o_t >= first)[:, None] & mask_c[None, :]
        mask_n = ((o_t + 1 >= first) & (o_t + 1 < last))[:, None] & mask_c[None, :]
        o_here = o_t[:, None] * angles + o_a[None, :]
        b_later = tl.load(p_omega + o_here + angles, mask=mask_n, other=0.0).to(tl.float64) / TURN  # (BT, BA)
        b_turns = _wrap(b_carry[None, :] - tl.cumsum(_wrap(b_later), 0))
        b_carry = _row(b_turns, is_last)
        angle = (b_turns * TURN).to(ACC)
        cos, sin = tl.cos(angle), tl.sin(angle)
        o_pair = o_t[:, None] * (2 * angles) + o_place[None, :]
        b_part = _turn_back(p_q, p_dturned_q, p_dq, o_pair, half, cos, sin, mask, ACC)
        b_part += _turn_back(p_k, p_dturned_k, p_dk, o_pair, half, cos, sin, mask, ACC)
        summed = b_total[None, :] + tl.cumsum(b_part, 0).to(tl.float64)
        b_total = _row(summed, is_last)
        tl.store(p_domega + o_here, summed.to(ACC).to(p_domega.dtype.element_ty), mask=mask)
    tl.store(p_dinitial + i_span * angles + o_a, b_total.to(p_dinitial.dtype.element_ty), mask=mask_c)


@triton.jit(do_not_specialize=RUNTIME)
def _add(
    p_sums, p_incoming, p_domega, p_offsets, length, chunk, chunks, angles, BT: tl.constexpr, BA: tl.constexpr,
):  # fmt: skip
    i_span, o_a = program_of(angles, BA)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    b_more = tl.load(p_incoming + i_span * angles + o_a, mask=o_a < angles, other=0.0)  # (BA,)
    for start in tl.range(first, last, BT, num_stages=2):
        o_t = start + tl.arange(0, BT)
        mask = (o_t < last)[:, None] & (o_a < angles)[None, :]
        o_here = o_t[:, None] * angles + o_a[None, :]
        b_value = tl.load(p_sums + o_here, mask=mask, other=0.0) + b_more[None, :]  # (BT, BA)
        tl.store(p_domega + o_here, b_value.to(p_domega.dtype.element_ty), mask=mask)


class _Run:
    """The launches of one call: its spans, and the chunks they are cut into where sequences alone are too few."""

    def __init__(self, q: Tensor, state: Tensor, cu_seqlens: Tensor | None) -> None:
        half = q.shape[3] // 2
        self.angles, self.half, self.rows = q.shape[2] * half, half, q.shape[0] * q.shape[1]
        self.width = lanes(self.angles, 64)
        self.spans = whole_sequences(OP, q, cu_seqlens)
        chunk = chunk_length(self.spans.number * triton.cdiv(self.angles, self.width), self.spans.length)
        self.chunked = None if chunk is None else cut(self.spans, chunk)
        self.options = {"ACC": tl.float64 if state.dtype == torch.float64 else tl.float32, "TURN": TURN}

    def __call__(self, kernel, spans: Spans, *tensors: Tensor | None, **options: object) -> None:
        programs = spans.number * triton.cdiv(self.angles, self.width)
        sizes = (self.angles,) if kernel is _add else (self.angles, self.half)
        launch(kernel, programs, *tensors, *spans.arguments, *sizes, BT=32, BA=self.width, num_warps=4, **options)

    def sums(self, q: Tensor, k: Tensor, omega: Tensor) -> tuple[Tensor, Tensor]:
        """Turns that every chunk adds (C, A), and ones of that shape."""
        assert self.chunked is not None
        number = self.chunked.spans.number
        total = torch.empty(number, self.angles, dtype=torch.float64, device=q.device)
        self(_forward, self.chunked.spans, q, k, omega, None, None, None, total, **self.options)
        return total, torch.ones_like(total)


def forward(
    q: Tensor, k: Tensor, increment: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """q and k turned, each in its type, the final angle (S, H, K/2), and the same in float64."""
    q, k, increment = (t.detach().contiguous() for t in (q, k, increment))
    run = _Run(q, initial_state, cu_seqlens)
    start = (initial_state.detach().double() / TURN).flatten(1).contiguous()
    turned_q, turned_k, end = fresh(q), fresh(k), fresh(start)
    if run.chunked is None:
        run(_forward, run.spans, q, k, increment, start, turned_q, turned_k, end, **run.options)
    else:
        total, ones = run.sums(q, k, increment)
        after, end = relay(run.chunked.relay, total, ones, start, backward=False)
        starts = run.chunked.starts(start, after)
        run(_forward, run.chunked.spans, q, k, increment, starts, turned_q, turned_k, total, **run.options)
        end = end - (end + 0.5).floor()
    angle = (end * TURN).view(initial_state.shape)
    # An empty sequence has its own angle back, whole turns included.
    if cu_seqlens is not None:
        empty = (cu_seqlens.diff() == 0)[:, None, None]
        angle = torch.where(empty, initial_state.double(), angle)
    return turned_q, turned_k, angle.to(initial_state.dtype, copy=True), angle


def backward(
    dq_out: Tensor, dk_out: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, increment: Tensor, end_angle: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    """Gradients of q, k, the increments and the initial angle, as in the CPU kernels."""
    dq_out, dk_out, q, k, increment = (t.detach().contiguous() for t in (dq_out, dk_out, q, k, increment))
    run = _Run(q, dfinal, cu_seqlens)
    end = (end_angle.detach() / TURN).flatten(1).contiguous()
    incoming = dfinal.detach().flatten(1).contiguous()
    dq, dk, domega, dinitial = fresh(q), fresh(k), fresh(increment), fresh(incoming)
    if run.chunked is None:
        run(_backward, run.spans, q, k, increment, end, dq_out, dk_out, incoming, dq, dk, domega, dinitial,
            **run.options)  # fmt: skip
    else:
        spans = run.chunked.spans
        total, ones = run.sums(q, k, increment)
        before, _ = relay(run.chunked.relay, -total, ones, end, backward=True)
        ends = run.chunked.ends(end, before)
        sums, parts = torch.empty_like(increment, dtype=dfinal.dtype), fresh(incoming, spans.number, run.angles)
        run(_backward, spans, q, k, increment, ends, dq_out, dk_out, None, dq, dk, sums, parts, **run.options)
        handed_on, dinitial = relay(run.chunked.relay, parts, ones.to(parts.dtype), incoming, backward=True)
        run(_add, spans, sums, run.chunked.ends(incoming, handed_on), domega)
    return dq, dk, domega, dinitial.view_as(dfinal)
