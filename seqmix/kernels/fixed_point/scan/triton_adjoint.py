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
    pre, h, h0, v, target, back, out, of, bounds, offsets, length, chunk, chunks, width, rank, row, columns,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES_DECAY: tl.constexpr, SEES_B: tl.constexpr,
    SEES_MIXING: tl.constexpr, STORE_V: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, BR: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # The wanted columns of dp (L, columns); e + K (h - e) and K^T (1 - lambda) v come in where the mixing has no rank.
    item = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BN)
    first, last = span(item, offsets, length, chunk, chunks)
    sequence, begin, _ = sequence_of(item, of, bounds, length, chunks)
    # Where the wanted columns begin.
    b_at = 0
    mixing_at = 0
    if SEES_DECAY:
        b_at += width
        mixing_at += width
    if SEES_B:
        mixing_at += width
    if STORE_V:
        mixing_at += width
    for start in range(first, last, BT):
        t = start + tl.arange(0, BT)
        mask_t = t < last
        mask = mask_t[:, None] & (n < width)[None, :]
        here = t[:, None] * width + n[None, :]
        # A tile (BT, BN): the gates again, h - e and (1 - lambda) v.
        gate = tl.load(pre + t[:, None] * row + n[None, :], mask=mask, other=0.0)
        raw = tl.load(pre + t[:, None] * row + width + n[None, :], mask=mask, other=0.0)
        v_t = tl.load(v + here, mask=mask, other=0.0)
        decay, write, open_ = sigmoid(gate), sigmoid(-gate), sigmoid(raw)
        b = raw * open_
        e = b
        if GATED:
            value = tl.load(pre + t[:, None] * row + 2 * width + n[None, :], mask=mask, other=0.0)
            e = b * value
        off = tl.load(h + here, mask=mask, other=0.0) - e
        w = write * v_t
        # To lambda.
        if SEES_DECAY:
            if target is None:
                goal = e + mixed(
                    pre, None, None, t, 0, 0, (2 + GATED) * width, 0, n, mask, mask_t, width, rank, row, 0, 0.0, off,
                    STRENGTH, PRODUCT, False,
                )  # fmt: skip
            else:
                goal = tl.load(target + here, mask=mask, other=0.0)
            past = load_before(h, h0, t, begin, sequence, n, mask, width)
            tl.store(out + t[:, None] * columns + n[None, :], v_t * (past - goal) * decay * write, mask=mask)
        # To b, and to v with which it is multiplied.
        if SEES_B:
            if back is None:
                db = w - mixed_back(
                    pre, t, (2 + GATED) * width, n, mask, mask_t, width, rank, row, w, STRENGTH, PRODUCT
                )
            else:
                db = w - tl.load(back + here, mask=mask, other=0.0)
            if STORE_V:
                tl.store(out + t[:, None] * columns + b_at + width + n[None, :], db * b, mask=mask)
            if GATED:
                db *= value
            db *= open_ * (1.0 + raw * (1.0 - open_))
            tl.store(out + t[:, None] * columns + b_at + n[None, :], db, mask=mask)
        # To the mixing.
        if SEES_MIXING and rank > 0:
            store_mixing_gradient(
                pre, out, t, (2 + GATED) * width, mixing_at, n, mask, mask_t, width, rank, row, columns, w, off,
                STRENGTH, PRODUCT, BR,
            )  # fmt: skip


@triton.jit(do_not_specialize=RUNTIME)
def _sweep(
    pre, h, old, cotangent, ds, back, busy, incoming, new, first_state, product, change, size, of, bounds,
    offsets, length, chunk, chunks, width, rank, row,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, DAMPING: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Rows of a tile run back in time. Without `new` only v at the start of the span and the product of the decays are
    # wanted. `ds` (L, N) is what each token sends to s of the one before it.
    item = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BN)
    mask_n = n < width
    first, last = span(item, offsets, length, chunk, chunks)
    sequence, _, end = sequence_of(item, of, bounds, length, chunks)
    stop = tl.where(tl.load(busy + sequence) != 0, last, first)
    step = tl.arange(0, BT)
    is_last = (step == BT - 1)[:, None]
    kind: tl.constexpr = pre.dtype.element_ty
    # What comes into the span (BN,), and the product of its decays.
    total = tl.full((BN,), 1.0, kind)
    carry = tl.zeros((BN,), kind)
    if incoming is not None:
        carry = tl.load(incoming + item * width + n, mask=mask_n, other=0.0)
    largest_change = tl.max(tl.zeros((BN,), kind), 0)
    largest = largest_change
    for start in range(first, stop, BT):
        t = first + last - 1 - (start + step)
        mask_t = t >= first
        mask = mask_t[:, None] & mask_n[None, :]
        following = mask & (t + 1 < end)[:, None]
        here = t[:, None] * width + n[None, :]
        # A tile (BT, BN): the cotangents, with what comes through the mixing and the next token's gates.
        gate = tl.load(pre + t[:, None] * row + n[None, :], mask=mask, other=0.0)
        later = tl.load(pre + (t + 1)[:, None] * row + n[None, :], mask=following, other=0.0)
        v = tl.load(old + here, mask=mask, other=0.0)
        x = tl.load(cotangent + here, mask=mask, other=0.0)
        if back is None:
            w = sigmoid(-gate) * v
            x += mixed_back(pre, t, (2 + GATED) * width, n, mask, mask_t, width, rank, row, w, STRENGTH, PRODUCT)
        else:
            x += tl.load(back + here, mask=mask, other=0.0)
        if ds is not None:
            sent = tl.load(ds + here + width, mask=following, other=0.0)
            if NORMED:
                s = tl.load(h + here, mask=mask, other=0.0)
                inverse = tl.rsqrt(tl.sum(s * s, 1) / width + 0.0625)[:, None]
                s *= inverse
                sent = inverse * (sent - s * (tl.sum(s * sent, 1) / width)[:, None])
            x += sent
        # Nothing follows the last token of a sequence; rows past the span's first one are padding.
        decay = tl.where(following, sigmoid(later), 0.0)
        decay = tl.where(mask, decay, 1.0)
        decay, x = tl.associative_scan((decay, tl.where(mask, x, 0.0)), 0, combine)
        x += decay * carry[None, :]
        carry = tl.sum(tl.where(is_last, x, 0.0), 0)
        # The next iterate, and how far it went.
        if new is None:
            total *= tl.sum(tl.where(is_last, decay, 0.0), 0)
        else:
            largest_change = tl.maximum(largest_change, largest_of(tl.where(mask, x - v, 0.0)))
            if DAMPING != 1.0:
                x = v + DAMPING * (x - v)
            tl.store(new + here, x, mask=mask)
            largest = tl.maximum(largest, largest_of(tl.where(mask, x, 0.0)))
    tl.store(first_state + item * width + n, carry, mask=mask_n)
    if product is not None:
        tl.store(product + item * width + n, total, mask=mask_n)
    if new is not None:
        end_sweep(old, new, change, size, item, stop, last, n, width, largest_change, largest, BT)


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
