"""Sweeps of the fixed-point RNN: a product with W, and one Triton pass for gates, mixing, scan and residual.

From p, from h^{l-1} W^T and from h^{l-1} a program forms lambda, e and the reflections of a tile of time with all its
channels, applies K to h^{l-1} - e, scans over time, and keeps the largest change. Neither gates nor factors nor
pre-activations are written to memory; a sequence that is done is copied and costs nothing else. A Kronecker mixing
needs every token's own matrices and takes a launch for itself (`kronecker_triton`), which hands its targets over. Where
sequences alone are too few they are cut into chunks, whose relay is that of `diagonal_scan`. Letters: L rows of all
sequences, C spans, S sequences, N channels, r rank, M numbers of a token, R of them with a part from the state.
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
    Cut,
    end_sweep,
    largest_of,
    load_before,
    load_pre,
    mixed,
    sigmoid,
    tile,
)
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.scan.cell import PARTS, Cell

OP = "fixed_point_scan"
_SEES = ("DECAY", "B", "MIXING")  # names of PARTS in the kernels


@triton.jit
def combine(a0, s0, a1, s1):
    return a0 * a1, a1 * s0 + s1


@triton.jit(do_not_specialize=RUNTIME)
def _sweep(
    p, more, more0, old, h0, busy, target, initial, new, last_state, product, change, size, of, bounds,
    offsets, length, chunk, chunks, width, rank, row, seen,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES_DECAY: tl.constexpr, SEES_B: tl.constexpr,
    SEES_MIXING: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, DAMPING: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Without `new` only the state at the end of the span and the product of its decays are wanted.
    item = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BN)
    mask_n = n < width
    first, last = span(item, offsets, length, chunk, chunks)
    sequence, begin, _ = sequence_of(item, of, bounds, length, chunks)
    stop = tl.where(tl.load(busy + sequence) != 0, last, first)
    step = tl.arange(0, BT)
    is_last = (step == BT - 1)[:, None]
    kind: tl.constexpr = p.dtype.element_ty
    # Where the parts of what the state adds begin.
    b_seen = 0
    mixing_seen = 0
    if SEES_DECAY:
        b_seen += width
        mixing_seen += width
    if SEES_B:
        mixing_seen += width
    # The state before the span (BN,), and the product of its decays.
    total = tl.full((BN,), 1.0, kind)
    carry = tl.zeros((BN,), kind)
    if initial is not None:
        carry = tl.load(initial + item * width + n, mask=mask_n, other=0.0)
    largest_change = tl.max(tl.zeros((BN,), kind), 0)
    largest = largest_change
    for start in range(first, stop, BT):
        t = start + step
        mask_t = t < last
        mask = mask_t[:, None] & mask_n[None, :]
        # A tile (BT, BN): the last iterate, and the factor of what it adds to the gates.
        h = tl.load(old + t[:, None] * width + n[None, :], mask=mask, other=0.0)
        scale = tl.full((BT,), 1.0, kind)
        if NORMED and (SEES_DECAY or SEES_B or SEES_MIXING):
            past = load_before(old, h0, t, begin, sequence, n, mask, width)
            scale = tl.rsqrt(tl.sum(past * past, 1) / width + 0.0625)
        # What the recurrence is drawn to: e + K (h - e).
        gate = load_pre(p, more, more0, t, begin, sequence, n, n, mask, row, seen, scale, SEES_DECAY)
        if target is None:
            raw = load_pre(p, more, more0, t, begin, sequence, n + width, n + b_seen, mask, row, seen, scale, SEES_B)
            e = raw * sigmoid(raw)
            if GATED:
                e *= load_pre(p, more, more0, t, begin, sequence, n + 2 * width, n, mask, row, seen, scale, False)
            goal = e + mixed(
                p, more, more0, t, begin, sequence, (2 + GATED) * width, mixing_seen, n, mask, mask_t, width, rank,
                row, seen, scale, h - e, STRENGTH, PRODUCT, SEES_MIXING,
            )  # fmt: skip
        else:
            goal = tl.load(target + t[:, None] * width + n[None, :], mask=mask, other=0.0)
        # The scan over the tile, joined to the state before it.
        decay = tl.where(mask, sigmoid(gate), 1.0)
        x = tl.where(mask, sigmoid(-gate) * goal, 0.0)
        decay, x = tl.associative_scan((decay, x), 0, combine)
        x += decay * carry[None, :]
        carry = tl.sum(tl.where(is_last, x, 0.0), 0)
        # The next iterate, and how far it went.
        if new is None:
            total *= tl.sum(tl.where(is_last, decay, 0.0), 0)
        else:
            largest_change = tl.maximum(largest_change, largest_of(tl.where(mask, x - h, 0.0)))
            if DAMPING != 1.0:
                x = h + DAMPING * (x - h)
            tl.store(new + t[:, None] * width + n[None, :], x, mask=mask)
            largest = tl.maximum(largest, largest_of(tl.where(mask, x, 0.0)))
    tl.store(last_state + item * width + n, carry, mask=mask_n)
    if product is not None:
        tl.store(product + item * width + n, total, mask=mask_n)
    if new is not None:
        end_sweep(old, new, change, size, item, stop, last, n, width, largest_change, largest, BT)


class Sweeps:
    """The launches of all sweeps of one solve: p (L, M), W (R, N), h_0 (S, N), and the cut into spans."""

    def __init__(self, cell: Cell, p: Tensor, weight: Tensor, h0: Tensor, rows: Rows) -> None:
        self.cell, self.p, self.h0, self.rows = cell, p.contiguous(), h0.contiguous(), rows
        self.weight = weight if cell.spans else None
        # What h_0 adds to the pre-activations of first tokens, but for its root mean square.
        self.more0 = self.h0 @ weight.mT if cell.spans else None
        self.cut = Cut(OP, rows, p)
        m = cell.mixing
        self.sees = {f"SEES_{name}": part in cell.hidden for name, part in zip(_SEES, PARTS, strict=True)}
        low_rank = isinstance(m, LowRank)
        # A constant, because a number handed to a kernel is float32.
        self.options = {"STRENGTH": float(m.strength), "PRODUCT": low_rank and m.product} | tile(m.width)  # type: ignore[union-attr]
        self.options |= {"GATED": cell.gated, "NORMED": cell.normed}
        self.sizes = (m.width, m.rank if low_rank else 0, cell.size, cell.recurrent)  # type: ignore[union-attr]
        self.kronecker = None
        if not low_rank:
            from seqmix.kernels.fixed_point.kronecker_triton import Targets

            self.kronecker = Targets(cell, self.p, self.more0, self.h0, rows)

    def __call__(self, h: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """The next iterate (L, N), and by sequence (S,) the largest change and the largest magnitude.

        Sequences that are not `busy` (S,) keep their rows of h (L, N).
        """
        h = h.contiguous()
        more = None if self.weight is None else h @ self.weight.mT
        live = busy.view(torch.uint8)
        target = None if self.kronecker is None else self.kronecker(h, more, live)
        width, cut = self.sizes[0], self.cut
        inputs = (self.p, more, self.more0, h, self.h0, live, target)

        def run(over: Chunked, *tensors: Tensor | None) -> None:
            launch(
                _sweep, over.spans.number, *inputs, *tensors, *over.places, *over.spans.arguments, *self.sizes,
                DAMPING=damping, **self.sees, **self.options,
            )  # fmt: skip

        over, starts = cut.whole, self.h0
        new = torch.empty_like(h)
        if cut.chunked is not None:
            over = cut.chunked
            end, product = (h.new_empty(over.spans.number, width) for _ in range(2))
            run(over, None, None, end, product, None, None)
            after, _ = relay(over.relay, end, product, self.h0, backward=False)
            starts = over.starts(self.h0, after)
        end = h.new_empty(over.spans.number, width)
        change, size = (h.new_empty(over.spans.number) for _ in range(2))
        run(over, starts, new, end, None, change, size)
        return new, cut.by_sequence(over, change), cut.by_sequence(over, size)
