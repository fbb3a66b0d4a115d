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
    p_p, p_more, p_more0, p_old, p_h0, p_busy, p_target, p_initial, p_new, p_last_state, p_product, p_change, p_size,
    p_of, p_bounds,
    p_offsets, length, chunk, chunks, width, rank, row, seen,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES_DECAY: tl.constexpr, SEES_B: tl.constexpr,
    SEES_MIXING: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, DAMPING: tl.constexpr, BT: tl.constexpr,
    BN: tl.constexpr,
):  # fmt: skip
    # Without `p_new` only the state at the end of the span and the product of its decays are wanted.
    i_span = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    mask_n = o_n < width
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    i_s, begin, _ = sequence_of(i_span, p_of, p_bounds, length, chunks)
    stop = tl.where(tl.load(p_busy + i_s) != 0, last, first)  # scalar
    o_step = tl.arange(0, BT)
    is_last = (o_step == BT - 1)[:, None]
    kind: tl.constexpr = p_p.dtype.element_ty
    # Where the parts of what the state adds begin.
    seen_b = 0
    seen_mixing = 0
    if SEES_DECAY:
        seen_b += width
        seen_mixing += width
    if SEES_B:
        seen_mixing += width
    # The state before the span (BN,), and the product of its decays.
    total = tl.full((BN,), 1.0, kind)
    b_carry = tl.zeros((BN,), kind)
    if p_initial is not None:
        b_carry = tl.load(p_initial + i_span * width + o_n, mask=mask_n, other=0.0)  # (BN,)
    largest_change = tl.max(tl.zeros((BN,), kind), 0)
    largest = largest_change
    for start in range(first, stop, BT):
        o_t = start + o_step
        mask_t = o_t < last
        mask = mask_t[:, None] & mask_n[None, :]
        # A tile (BT, BN): the last iterate, and the factor of what it adds to the gates.
        b_h = tl.load(p_old + o_t[:, None] * width + o_n[None, :], mask=mask, other=0.0)  # (BT, BN)
        scale = tl.full((BT,), 1.0, kind)
        if NORMED and (SEES_DECAY or SEES_B or SEES_MIXING):
            b_past = load_before(p_old, p_h0, o_t, begin, i_s, o_n, mask, width)
            scale = tl.rsqrt(tl.sum(b_past * b_past, 1) / width + 0.0625)
        # What the recurrence is drawn to: e + K (h - e).
        b_gate = load_pre(p_p, p_more, p_more0, o_t, begin, i_s, o_n, o_n, mask, row, seen, scale, SEES_DECAY)
        if p_target is None:
            b_raw = load_pre(
                p_p, p_more, p_more0, o_t, begin, i_s, o_n + width, o_n + seen_b, mask, row, seen, scale, SEES_B
            )
            b_e = b_raw * sigmoid(b_raw)
            if GATED:
                b_e *= load_pre(
                    p_p, p_more, p_more0, o_t, begin, i_s, o_n + 2 * width, o_n, mask, row, seen, scale, False
                )
            b_goal = b_e + mixed(
                p_p, p_more, p_more0, o_t, begin, i_s, (2 + GATED) * width, seen_mixing, o_n, mask, mask_t, width, rank,
                row, seen, scale, b_h - b_e, STRENGTH, PRODUCT, SEES_MIXING,
            )  # fmt: skip
        else:
            b_goal = tl.load(p_target + o_t[:, None] * width + o_n[None, :], mask=mask, other=0.0)  # (BT, BN)
        # The scan over the tile, joined to the state before it.
        decay = tl.where(mask, sigmoid(b_gate), 1.0)
        b_x = tl.where(mask, sigmoid(-b_gate) * b_goal, 0.0)
        decay, b_x = tl.associative_scan((decay, b_x), 0, combine)
        b_x += decay * b_carry[None, :]
        b_carry = tl.sum(tl.where(is_last, b_x, 0.0), 0)
        # The next iterate, and how far it went.
        if p_new is None:
            total *= tl.sum(tl.where(is_last, decay, 0.0), 0)
        else:
            largest_change = tl.maximum(largest_change, largest_of(tl.where(mask, b_x - b_h, 0.0)))
            if DAMPING != 1.0:
                b_x = b_h + DAMPING * (b_x - b_h)
            tl.store(p_new + o_t[:, None] * width + o_n[None, :], b_x, mask=mask)
            largest = tl.maximum(largest, largest_of(tl.where(mask, b_x, 0.0)))
    tl.store(p_last_state + i_span * width + o_n, b_carry, mask=mask_n)
    if p_product is not None:
        tl.store(p_product + i_span * width + o_n, total, mask=mask_n)
    if p_new is not None:
        end_sweep(p_old, p_new, p_change, p_size, i_span, stop, last, o_n, width, largest_change, largest, BT)


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
        # A constant, because a number handed to a kernel is float32.
        rank, product = (m.rank, m.product) if isinstance(m, LowRank) else (0, False)
        self.options = {"STRENGTH": float(m.strength), "PRODUCT": product} | tile(m.width)
        self.options |= {"GATED": cell.gated, "NORMED": cell.normed}
        self.sizes = (m.width, rank, cell.size, cell.recurrent)
        self.kronecker = None
        if not isinstance(m, LowRank):
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
