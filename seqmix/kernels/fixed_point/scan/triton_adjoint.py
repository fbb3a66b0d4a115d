"""Sweeps of the adjoint of the fixed-point RNN: gates' gradients row by row, a product with W, one scan back in time.

    v_t = lambda_{t+1} v_{t+1} + g_t + K_t^T (1 - lambda_t) v_t + s'(h_t)^T W^T (gradients of p_{t+1})

The pre-activations are those of the fixed point, the same in every sweep. Letters as in `triton`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import RUNTIME, launch, sequence_of, span
from seqmix.kernels.diagonal_scan.triton import relay
from seqmix.kernels.fixed_point.low_rank import LowRank
from seqmix.kernels.fixed_point.low_rank_triton import (
    Chunked,
    end_sweep,
    largest_of,
    load_before,
    mixed,
    mixed_back,
    sigmoid,
    store_mixing_gradient,
    tile,
)
from seqmix.kernels.fixed_point.scan.cell import Gates
from seqmix.kernels.fixed_point.scan.triton import Sweeps, combine


@triton.jit(do_not_specialize=RUNTIME)
def _gradients(
    p_pre, p_h, p_h0, p_v, p_target, p_back, p_out, p_of, p_bounds,
    p_offsets, length, chunk, chunks, width, rank, row, columns,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES_DECAY: tl.constexpr, SEES_B: tl.constexpr,
    SEES_MIXING: tl.constexpr, STORE_V: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, BR: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # The wanted columns of dp (L, columns); e + K (h - e) and K^T (1 - lambda) v come in where the mixing has no rank.
    i_span = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    i_s, begin, _ = sequence_of(i_span, p_of, p_bounds, length, chunks)
    # Where the wanted columns begin.
    at_b = 0
    at_mixing = 0
    if SEES_DECAY:
        at_b += width
        at_mixing += width
    if SEES_B:
        at_mixing += width
    if STORE_V:
        at_mixing += width
    for start in range(first, last, BT):
        o_t = start + tl.arange(0, BT)
        mask_t = o_t < last
        mask = mask_t[:, None] & (o_n < width)[None, :]
        o_here = o_t[:, None] * width + o_n[None, :]
        # A tile (BT, BN): the gates again, h - e and (1 - lambda) v.
        b_gate = tl.load(p_pre + o_t[:, None] * row + o_n[None, :], mask=mask, other=0.0)  # (BT, BN)
        b_raw = tl.load(p_pre + o_t[:, None] * row + width + o_n[None, :], mask=mask, other=0.0)  # (BT, BN)
        b_v = tl.load(p_v + o_here, mask=mask, other=0.0)  # (BT, BN)
        decay, write, open_ = sigmoid(b_gate), sigmoid(-b_gate), sigmoid(b_raw)
        b_b = b_raw * open_
        b_e = b_b
        if GATED:
            b_value = tl.load(p_pre + o_t[:, None] * row + 2 * width + o_n[None, :], mask=mask, other=0.0)  # (BT, BN)
            b_e = b_b * b_value
        b_off = tl.load(p_h + o_here, mask=mask, other=0.0) - b_e  # (BT, BN)
        b_w = write * b_v
        # To lambda.
        if SEES_DECAY:
            if p_target is None:
                b_goal = b_e + mixed(
                    p_pre, None, None, o_t, 0, 0, (2 + GATED) * width, 0, o_n, mask, mask_t, width, rank, row, 0, 0.0,
                    b_off, STRENGTH, PRODUCT, False,
                )  # fmt: skip
            else:
                b_goal = tl.load(p_target + o_here, mask=mask, other=0.0)  # (BT, BN)
            b_past = load_before(p_h, p_h0, o_t, begin, i_s, o_n, mask, width)
            tl.store(p_out + o_t[:, None] * columns + o_n[None, :], b_v * (b_past - b_goal) * decay * write, mask=mask)
        # To b, and to v with which it is multiplied.
        if SEES_B:
            if p_back is None:
                b_db = b_w - mixed_back(
                    p_pre, o_t, (2 + GATED) * width, o_n, mask, mask_t, width, rank, row, b_w, STRENGTH, PRODUCT
                )
            else:
                b_db = b_w - tl.load(p_back + o_here, mask=mask, other=0.0)  # (BT, BN)
            if STORE_V:
                tl.store(p_out + o_t[:, None] * columns + at_b + width + o_n[None, :], b_db * b_b, mask=mask)
            if GATED:
                b_db *= b_value
            b_db *= open_ * (1.0 + b_raw * (1.0 - open_))
            tl.store(p_out + o_t[:, None] * columns + at_b + o_n[None, :], b_db, mask=mask)
        # To the mixing.
        if SEES_MIXING and rank > 0:
            store_mixing_gradient(
                p_pre, p_out, o_t, (2 + GATED) * width, at_mixing, o_n, mask, mask_t, width, rank, row, columns, b_w,
                b_off, STRENGTH, PRODUCT, BR,
            )  # fmt: skip


@triton.jit(do_not_specialize=RUNTIME)
def _sweep(
    p_pre, p_h, p_old, p_cotangent, p_ds, p_back, p_busy, p_incoming, p_new, p_first_state, p_product, p_change, p_size,
    p_of, p_bounds,
    p_offsets, length, chunk, chunks, width, rank, row,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, DAMPING: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Rows of a tile run back in time. Without `p_new` only v at the start of the span and the product of the decays are
    # wanted. `p_ds` (L, N) is what each token sends to s of the one before it.
    i_span = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    mask_n = o_n < width
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    i_s, _, end = sequence_of(i_span, p_of, p_bounds, length, chunks)
    stop = tl.where(tl.load(p_busy + i_s) != 0, last, first)  # scalar
    o_step = tl.arange(0, BT)
    is_last = (o_step == BT - 1)[:, None]
    kind: tl.constexpr = p_pre.dtype.element_ty
    # What comes into the span (BN,), and the product of its decays.
    total = tl.full((BN,), 1.0, kind)
    b_carry = tl.zeros((BN,), kind)
    if p_incoming is not None:
        b_carry = tl.load(p_incoming + i_span * width + o_n, mask=mask_n, other=0.0)  # (BN,)
    largest_change = tl.max(tl.zeros((BN,), kind), 0)
    largest = largest_change
    for start in range(first, stop, BT):
        o_t = first + last - 1 - (start + o_step)
        mask_t = o_t >= first
        mask = mask_t[:, None] & mask_n[None, :]
        following = mask & (o_t + 1 < end)[:, None]
        o_here = o_t[:, None] * width + o_n[None, :]
        # A tile (BT, BN): the cotangents, with what comes through the mixing and the next token's gates.
        b_gate = tl.load(p_pre + o_t[:, None] * row + o_n[None, :], mask=mask, other=0.0)  # (BT, BN)
        b_later = tl.load(p_pre + (o_t + 1)[:, None] * row + o_n[None, :], mask=following, other=0.0)  # (BT, BN)
        b_v = tl.load(p_old + o_here, mask=mask, other=0.0)  # (BT, BN)
        b_x = tl.load(p_cotangent + o_here, mask=mask, other=0.0)  # (BT, BN)
        if p_back is None:
            b_w = sigmoid(-b_gate) * b_v
            b_x += mixed_back(
                p_pre, o_t, (2 + GATED) * width, o_n, mask, mask_t, width, rank, row, b_w, STRENGTH, PRODUCT
            )
        else:
            b_x += tl.load(p_back + o_here, mask=mask, other=0.0)  # (BT, BN)
        if p_ds is not None:
            b_sent = tl.load(p_ds + o_here + width, mask=following, other=0.0)  # (BT, BN)
            if NORMED:
                b_s = tl.load(p_h + o_here, mask=mask, other=0.0)  # (BT, BN)
                inverse = tl.rsqrt(tl.sum(b_s * b_s, 1) / width + 0.0625)[:, None]
                b_s *= inverse
                b_sent = inverse * (b_sent - b_s * (tl.sum(b_s * b_sent, 1) / width)[:, None])
            b_x += b_sent
        # Nothing follows the last token of a sequence; rows past the span's first one are padding.
        decay = tl.where(following, sigmoid(b_later), 0.0)
        decay = tl.where(mask, decay, 1.0)
        decay, b_x = tl.associative_scan((decay, tl.where(mask, b_x, 0.0)), 0, combine)
        b_x += decay * b_carry[None, :]
        b_carry = tl.sum(tl.where(is_last, b_x, 0.0), 0)
        # The next iterate, and how far it went.
        if p_new is None:
            total *= tl.sum(tl.where(is_last, decay, 0.0), 0)
        else:
            largest_change = tl.maximum(largest_change, largest_of(tl.where(mask, b_x - b_v, 0.0)))
            if DAMPING != 1.0:
                b_x = b_v + DAMPING * (b_x - b_v)
            tl.store(p_new + o_here, b_x, mask=mask)
            largest = tl.maximum(largest, largest_of(tl.where(mask, b_x, 0.0)))
    tl.store(p_first_state + i_span * width + o_n, b_carry, mask=mask_n)
    if p_product is not None:
        tl.store(p_product + i_span * width + o_n, total, mask=mask_n)
    if p_new is not None:
        end_sweep(p_old, p_new, p_change, p_size, i_span, stop, last, o_n, width, largest_change, largest, BT)


class AdjointSweeps:
    """The launches of all adjoint sweeps of one solve, at the fixed point h (L, N) with its gates."""

    def __init__(self, forward: Sweeps, gates: Gates, h: Tensor, cotangent: Tensor) -> None:
        self.forward, self.pre, self.h, self.cotangent = forward, gates.pre.contiguous(), h.contiguous(), cotangent
        self.cell, self.cut, self.weight = forward.cell, forward.cut, forward.weight
        self.width, rank, row, self.seen = forward.sizes
        self.sizes = (self.width, rank, row)
        # Twice as much is alive in a tile as in one of a sweep.
        self.options = forward.options | tile(self.width, 2048) | {"BR": triton.next_power_of_2(max(1, rank))}
        self.kronecker, self.target = None, None
        if not isinstance(self.cell.mixing, LowRank):
            from seqmix.kernels.fixed_point.kronecker_triton import Pullback

            self.kronecker = Pullback(self.cell.mixing, gates.factors, self.pre, self.h, gates.e)
            self.target = self.cell.target(gates, self.h)

    def gradients(
        self, v: Tensor, sees: dict[str, bool], columns: int, back: Tensor | None, everything: bool = False
    ) -> Tensor:
        """The columns of dp (L, columns) that `sees` asks for, or all."""
        out, pieces = v.new_empty(len(v), columns), self.cut.pieces
        tensors = (self.pre, self.h, self.forward.h0, v, self.target, back, out)
        launch(
            _gradients, pieces.spans.number, *tensors, *pieces.places, *pieces.spans.arguments, *self.sizes, columns,
            **sees, STORE_V=everything and self.cell.gated, **self.options,
        )  # fmt: skip
        if self.kronecker is not None and sees["SEES_MIXING"]:
            self.kronecker.store_gradient(v, self.pre, out)
        return out

    def vjp(self, v: Tensor) -> Tensor:
        """dp (L, M) at the solution."""
        v = v.contiguous()
        back = None if self.kronecker is None else self.kronecker.apply(v, self.pre)
        return self.gradients(v, dict.fromkeys(self.forward.sees, True), self.cell.size, back, everything=True)

    def __call__(self, v: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """As `Sweeps.__call__`."""
        v = v.contiguous()
        back = None if self.kronecker is None else self.kronecker.apply(v, self.pre)
        ds = None if self.weight is None else self.gradients(v, self.forward.sees, self.seen, back) @ self.weight
        inputs = (self.pre, self.h, v, self.cotangent, ds, back, busy.view(torch.uint8))

        def run(over: Chunked, *tensors: Tensor | None) -> None:
            launch(
                _sweep, over.spans.number, *inputs, *tensors, *over.places, *over.spans.arguments, *self.sizes,
                DAMPING=damping, **self.forward.options,
            )  # fmt: skip

        over, incoming, cut = self.cut.whole, None, self.cut
        new = torch.empty_like(v)
        if cut.chunked is not None:
            over = cut.chunked
            first, product = (v.new_empty(over.spans.number, self.width) for _ in range(2))
            run(over, None, None, first, product, None, None)
            nothing = torch.zeros_like(self.forward.h0)
            handed_on, _ = relay(over.relay, first, product, nothing, backward=True)
            incoming = over.ends(nothing, handed_on)
        first = v.new_empty(over.spans.number, self.width)
        change, size = (v.new_empty(over.spans.number) for _ in range(2))
        run(over, incoming, new, first, None, change, size)
        return new, cut.by_sequence(over, change), cut.by_sequence(over, size)
