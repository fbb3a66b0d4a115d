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

from seqmix.kernels._triton import RUNTIME, Spans, chunk_length, cut, fresh, lanes, launch, span, whole_sequences
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
    q, k, omega, initial, turned_q, turned_k, final, offsets, length, chunk, chunks, angles, half,
    BT: tl.constexpr, BA: tl.constexpr, ACC: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    # Without turned_q only `final`, the sum of the increments of the span, is wanted.
    blocks = tl.cdiv(angles, BA)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BA + tl.arange(0, BA)
    mask_c = c < angles
    first, last = span(item, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    is_last = (step == BT - 1)[:, None]
    place = (c // half) * 2 * half + c % half
    if initial is None:
        carry = tl.zeros((BA,), tl.float64)
    else:
        carry = tl.load(initial + item * angles + c, mask=mask_c, other=0.0)
    for start in tl.range(first, last, BT, num_stages=2):
        t = start + step
        mask = (t < last)[:, None] & mask_c[None, :]
        turns = tl.load(omega + t[:, None] * angles + c[None, :], mask=mask, other=0.0).to(tl.float64) / TURN
        turns = _wrap(carry[None, :] + tl.cumsum(_wrap(turns), 0))
        carry = _row(turns, is_last)
        if turned_q is not None:
            angle = (turns * TURN).to(ACC)
            cos, sin = tl.cos(angle), tl.sin(angle)
            here = t[:, None] * (2 * angles) + place[None, :]
            q0 = tl.load(q + here, mask=mask, other=0.0).to(ACC)
            q1 = tl.load(q + here + half, mask=mask, other=0.0).to(ACC)
            tl.store(turned_q + here, (q0 * cos - q1 * sin).to(q.dtype.element_ty), mask=mask)
            tl.store(turned_q + here + half, (q0 * sin + q1 * cos).to(q.dtype.element_ty), mask=mask)
            k0 = tl.load(k + here, mask=mask, other=0.0).to(ACC)
            k1 = tl.load(k + here + half, mask=mask, other=0.0).to(ACC)
            tl.store(turned_k + here, (k0 * cos - k1 * sin).to(k.dtype.element_ty), mask=mask)
            tl.store(turned_k + here + half, (k0 * sin + k1 * cos).to(k.dtype.element_ty), mask=mask)
    tl.store(final + item * angles + c, carry, mask=mask_c)


@triton.jit
def _turn_back(x, upstream, dx, here, half, cos, sin, mask, ACC: tl.constexpr):
    """Store dx = upstream turned back; returns what that contributes to the gradient of the angle."""
    u0 = tl.load(upstream + here, mask=mask, other=0.0).to(ACC)
    u1 = tl.load(upstream + here + half, mask=mask, other=0.0).to(ACC)
    x0 = tl.load(x + here, mask=mask, other=0.0).to(ACC)
    x1 = tl.load(x + here + half, mask=mask, other=0.0).to(ACC)
    d0, d1 = u0 * cos + u1 * sin, u1 * cos - u0 * sin
    tl.store(dx + here, d0.to(dx.dtype.element_ty), mask=mask)
    tl.store(dx + here + half, d1.to(dx.dtype.element_ty), mask=mask)
    return tl.where(mask, d1 * x0 - d0 * x1, 0.0)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    q, k, omega, end, dturned_q, dturned_k, dfinal, dq, dk, domega, dinitial, offsets, length, chunk, chunks,
    angles, half,
    BT: tl.constexpr, BA: tl.constexpr, ACC: tl.constexpr, TURN: tl.constexpr,
):  # fmt: skip
    # Rows of a tile run back in time. Without dfinal sums of gradients start from zero at the end of the span.
    blocks = tl.cdiv(angles, BA)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BA + tl.arange(0, BA)
    mask_c = c < angles
    first, last = span(item, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    is_last = (step == BT - 1)[:, None]
    place = (c // half) * 2 * half + c % half
    carry = tl.load(end + item * angles + c, mask=mask_c, other=0.0)
    if dfinal is None:
        total = tl.zeros((BA,), tl.float64)
    else:
        total = tl.load(dfinal + item * angles + c, mask=mask_c, other=0.0).to(tl.float64)
    for start in tl.range(first, last, BT, num_stages=2):
        t = last - 1 - (start - first) - step
        mask = (t >= first)[:, None] & mask_c[None, :]
        mask_n = ((t + 1 >= first) & (t + 1 < last))[:, None] & mask_c[None, :]
        here = t[:, None] * angles + c[None, :]
        later = tl.load(omega + here + angles, mask=mask_n, other=0.0).to(tl.float64) / TURN
        turns = _wrap(carry[None, :] - tl.cumsum(_wrap(later), 0))
        carry = _row(turns, is_last)
        angle = (turns * TURN).to(ACC)
        cos, sin = tl.cos(angle), tl.sin(angle)
        pair = t[:, None] * (2 * angles) + place[None, :]
        part = _turn_back(q, dturned_q, dq, pair, half, cos, sin, mask, ACC)
        part += _turn_back(k, dturned_k, dk, pair, half, cos, sin, mask, ACC)
        summed = total[None, :] + tl.cumsum(part, 0).to(tl.float64)
        total = _row(summed, is_last)
        tl.store(domega + here, summed.to(ACC).to(domega.dtype.element_ty), mask=mask)
    tl.store(dinitial + item * angles + c, total.to(dinitial.dtype.element_ty), mask=mask_c)


@triton.jit(do_not_specialize=RUNTIME)
def _add(
    sums, incoming, domega, offsets, length, chunk, chunks, angles, BT: tl.constexpr, BA: tl.constexpr,
):  # fmt: skip
    blocks = tl.cdiv(angles, BA)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    c = (tl.program_id(0) % blocks) * BA + tl.arange(0, BA)
    first, last = span(item, offsets, length, chunk, chunks)
    more = tl.load(incoming + item * angles + c, mask=c < angles, other=0.0)
    for start in tl.range(first, last, BT, num_stages=2):
        t = start + tl.arange(0, BT)
        mask = (t < last)[:, None] & (c < angles)[None, :]
        here = t[:, None] * angles + c[None, :]
        value = tl.load(sums + here, mask=mask, other=0.0) + more[None, :]
        tl.store(domega + here, value.to(domega.dtype.element_ty), mask=mask)


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
    dq_out: Tensor,
    dk_out: Tensor,
    dfinal: Tensor,
    q: Tensor,
    k: Tensor,
    increment: Tensor,
    end_angle: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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
