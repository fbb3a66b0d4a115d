"""Sweeps of the fixed-point Mamba in Triton: a product with W, mixing by rows, the selective scan, the norm by rows.

Mixing and norm sum over all channels of a token, the scan wants few channels and much of time, with N states for each:
one program for both would hold D N numbers and leave a GPU empty. So a sweep is three kernels, each with the tile it
wants, and nothing between them but L x D numbers; neither factors nor states go to memory. Letters: L rows, D channels,
N states of each, r rank, M numbers of a token, R of them with a part from y_{t-1}.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import RUNTIME, launch, sequence_of, span
from seqmix.kernels.fixed_point.kronecker_triton import Targets
from seqmix.kernels.fixed_point.low_rank import LowRank
from seqmix.kernels.fixed_point.low_rank_triton import (
    Cut,
    end_sweep,
    largest_of,
    load_pre,
    mixed,
    tile,
)
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.selective_scan.cell import PARTS, Cell
from seqmix.kernels.fixed_point.selective_scan.tokens import Inputs
from seqmix.kernels.selective_scan import triton as selective_scan

OP = "fixed_point_selective_scan"


@triton.jit(do_not_specialize=RUNTIME)
def _mix(
    p_p, p_more, p_more0, p_u, p_y, p_busy, p_b, p_c, p_x, p_of, p_bounds,
    p_offsets, length, chunk, chunks, width, states, rank, row, seen,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES_B: tl.constexpr, SEES_C: tl.constexpr,
    SEES_MIXING: tl.constexpr, BS: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # b, c (L, N) of unit length and, where there is an x, x = u + K (y - u).
    i_span = tl.program_id(0).to(tl.int64)
    o_n, o_s = tl.arange(0, BN), tl.arange(0, BS)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    i_s, begin, _ = sequence_of(i_span, p_of, p_bounds, length, chunks)
    last = tl.where(tl.load(p_busy + i_s) != 0, last, first)  # scalar
    # Where the parts of what the state adds begin.
    seen_c = 0
    seen_mixing = 0
    if SEES_B:
        seen_c += states
        seen_mixing += states
    if SEES_C:
        seen_mixing += states
    for start in range(first, last, BT):
        o_t = start + tl.arange(0, BT)
        mask_t = o_t < last
        mask = mask_t[:, None] & (o_n < width)[None, :]
        mask_s = mask_t[:, None] & (o_s < states)[None, :]
        one = tl.full((BT,), 1.0, p_p.dtype.element_ty)
        # b and c.
        b_raw = load_pre(p_p, p_more, p_more0, o_t, begin, i_s, o_s, o_s, mask_s, row, seen, one, SEES_B)
        b_raw *= tl.rsqrt(tl.sum(b_raw * b_raw, 1) + 1e-5)[:, None]
        tl.store(p_b + o_t[:, None] * states + o_s[None, :], b_raw, mask=mask_s)
        b_raw = load_pre(
            p_p, p_more, p_more0, o_t, begin, i_s, states + o_s, seen_c + o_s, mask_s, row, seen, one, SEES_C
        )
        b_raw *= tl.rsqrt(tl.sum(b_raw * b_raw, 1) + 1e-5)[:, None]
        tl.store(p_c + o_t[:, None] * states + o_s[None, :], b_raw, mask=mask_s)
        # x, from rows of u and y.
        if p_x is not None:
            o_here = o_t[:, None] * width + o_n[None, :]
            b_u = tl.load(p_u + o_here, mask=mask, other=0.0)  # (BT, BN)
            b_rest = tl.load(p_y + o_here, mask=mask, other=0.0) - b_u  # (BT, BN)
            b_u += mixed(
                p_p, p_more, p_more0, o_t, begin, i_s, 2 * states, seen_mixing, o_n, mask, mask_t, width, rank, row,
                seen, one, b_rest, STRENGTH, PRODUCT, SEES_MIXING,
            )  # fmt: skip
            tl.store(p_x + o_here, b_u, mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def _finish(
    p_value, p_norm, p_sent, p_old, p_busy, p_new, p_change, p_size, p_of, p_bounds,
    p_offsets, length, chunk, chunks, width,
    DAMPING: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # The next iterate: LayerNorm of `p_value` if there is a `p_norm`, else `p_value` and what the token after sends.
    i_span = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    i_s, _, end = sequence_of(i_span, p_of, p_bounds, length, chunks)
    stop = tl.where(tl.load(p_busy + i_s) != 0, last, first)  # scalar
    largest_change = tl.max(tl.zeros((BN,), p_new.dtype.element_ty), 0)
    largest = largest_change
    for start in range(first, stop, BT):
        o_t = start + tl.arange(0, BT)
        mask = (o_t < last)[:, None] & (o_n < width)[None, :]
        o_here = o_t[:, None] * width + o_n[None, :]
        b_x = tl.load(p_value + o_here, mask=mask, other=0.0)  # (BT, BN)
        b_y = tl.load(p_old + o_here, mask=mask, other=0.0)  # (BT, BN)
        if p_norm is not None:
            b_x = tl.where(mask, b_x - (tl.sum(b_x, 1) / width)[:, None], 0.0)
            b_x *= tl.rsqrt(tl.sum(b_x * b_x, 1) / width + 1e-5)[:, None]
            b_x *= tl.load(p_norm + o_n, mask=o_n < width, other=0.0)[None, :]  # (BN,)
            b_x += tl.load(p_norm + width + o_n, mask=o_n < width, other=0.0)[None, :]  # (BN,)
        if p_sent is not None:
            b_x += tl.load(p_sent + o_here + width, mask=mask & (o_t + 1 < end)[:, None], other=0.0)  # (BT, BN)
        largest_change = tl.maximum(largest_change, largest_of(tl.where(mask, b_x - b_y, 0.0)))
        if DAMPING != 1.0:
            b_x = b_y + DAMPING * (b_x - b_y)
        tl.store(p_new + o_here, b_x, mask=mask)
        largest = tl.maximum(largest, largest_of(tl.where(mask, b_x, 0.0)))
    end_sweep(p_old, p_new, p_change, p_size, i_span, stop, last, o_n, width, largest_change, largest, BT)


class Sweeps:
    """The launches of all sweeps of one solve."""

    def __init__(self, cell: Cell, inputs: Inputs, s0: Tensor, y0: Tensor, rows: Rows) -> None:
        self.cell, self.inputs, self.rows = cell, inputs, rows
        i, m = inputs, cell.mixing
        self.p, self.h0, self.s0 = i.p.contiguous(), y0.contiguous(), s0
        self.u, self.norm = i.u.contiguous(), i.norm.contiguous()
        self.weight = i.weight if self.cell.spans else None
        self.more0 = self.h0 @ i.weight.mT if self.cell.spans else None
        self.cut = Cut(OP, self.rows, self.p)
        self.sees = {f"SEES_{part.upper()}": part in self.cell.hidden for part in PARTS}
        low_rank, self.tile = isinstance(m, LowRank), tile(m.width)
        rank = m.rank if isinstance(m, LowRank) else 0
        self.sizes = (m.width, self.cell.states, rank, self.cell.size)
        self.options = {
            "STRENGTH": float(m.strength),
            "PRODUCT": isinstance(m, LowRank) and m.product,
            "BS": triton.next_power_of_2(self.cell.states),
        } | self.tile
        # A Kronecker mixing takes a program for each token.
        self.kronecker = None if low_rank else Targets(self.cell, self.p, self.more0, self.h0, self.rows, self.u)

    def scan(self, x: Tensor, b: Tensor, c: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """o (L, D), the final states and the states before chunks."""
        i = self.inputs
        arguments = (self.batched(x), self.batched(i.dt), i.A, self.batched(b), self.batched(c), i.D, self.s0)
        o, final, borders = selective_scan.forward(*arguments, self.offsets, False)
        return o.view_as(x), final, borders

    @property
    def offsets(self) -> Tensor | None:
        return None if self.rows.length is not None else self.rows.cu_seqlens

    def batched(self, x: Tensor) -> Tensor:
        """(L, ...) as (B, T, ...)."""
        return x.unsqueeze(0) if self.rows.length is None else x.unflatten(0, (self.rows.sequences, -1))

    def __call__(self, y: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """The next iterate (L, D), and by sequence (S,) the largest change and the largest magnitude.

        Sequences that are not `busy` (S,) keep their rows of y (L, D).
        """
        y, live, pieces = y.contiguous(), busy.view(torch.uint8), self.cut.pieces
        more = None if self.weight is None else y @ self.weight.mT
        b, c = (y.new_empty(len(y), self.cell.states) for _ in range(2))
        x = torch.empty_like(y) if self.kronecker is None else None
        spans = (*pieces.places, *pieces.spans.arguments)
        launch(
            _mix, pieces.spans.number, self.p, more, self.more0, self.u, y, live, b, c, x, *spans,
            *self.sizes, self.cell.recurrent, **self.sees, **self.options,
        )  # fmt: skip
        if self.kronecker is not None:
            x = self.kronecker(y, more, live)
        assert x is not None
        o, *_ = self.scan(x, b, c)
        return self.finish(o, self.norm, None, y, live, damping)

    def finish(
        self, value: Tensor, norm: Tensor | None, sent: Tensor | None, old: Tensor, live: Tensor, damping: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The last kernel of a sweep."""
        pieces, new = self.cut.pieces, torch.empty_like(old)
        change, size = (old.new_empty(pieces.spans.number) for _ in range(2))
        launch(
            _finish, pieces.spans.number, value, norm, sent, old, live, new, change, size,
            *pieces.places, *pieces.spans.arguments, self.sizes[0], DAMPING=damping, **self.tile,
        )  # fmt: skip
        return new, self.cut.by_sequence(pieces, change), self.cut.by_sequence(pieces, size)
