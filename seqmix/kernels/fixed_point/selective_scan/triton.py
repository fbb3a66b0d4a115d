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
    p, more, more0, u, y, busy, b, c, x, of, bounds, offsets, length, chunk, chunks, width, states, rank, row, seen,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES_B: tl.constexpr, SEES_C: tl.constexpr,
    SEES_MIXING: tl.constexpr, BS: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # b, c (L, N) of unit length and, where there is an x, x = u + K (y - u).
    item = tl.program_id(0).to(tl.int64)
    n, s = tl.arange(0, BN), tl.arange(0, BS)
    first, last = span(item, offsets, length, chunk, chunks)
    sequence, begin, _ = sequence_of(item, of, bounds, length, chunks)
    last = tl.where(tl.load(busy + sequence) != 0, last, first)
    c_seen = 0
    mixing_seen = 0
    if SEES_B:
        c_seen += states
        mixing_seen += states
    if SEES_C:
        mixing_seen += states
    for start in range(first, last, BT):
        t = start + tl.arange(0, BT)
        mask_t = t < last
        mask = mask_t[:, None] & (n < width)[None, :]
        mask_s = mask_t[:, None] & (s < states)[None, :]
        one = tl.full((BT,), 1.0, p.dtype.element_ty)
        raw = load_pre(p, more, more0, t, begin, sequence, s, s, mask_s, row, seen, one, SEES_B)
        raw *= tl.rsqrt(tl.sum(raw * raw, 1) + 1e-5)[:, None]
        tl.store(b + t[:, None] * states + s[None, :], raw, mask=mask_s)
        raw = load_pre(p, more, more0, t, begin, sequence, states + s, c_seen + s, mask_s, row, seen, one, SEES_C)
        raw *= tl.rsqrt(tl.sum(raw * raw, 1) + 1e-5)[:, None]
        tl.store(c + t[:, None] * states + s[None, :], raw, mask=mask_s)
        if x is not None:
            here = t[:, None] * width + n[None, :]
            u_t = tl.load(u + here, mask=mask, other=0.0)
            rest = tl.load(y + here, mask=mask, other=0.0) - u_t
            u_t += mixed(
                p, more, more0, t, begin, sequence, 2 * states, mixing_seen, n, mask, mask_t, width, rank, row, seen,
                one, rest, STRENGTH, PRODUCT, SEES_MIXING,
            )  # fmt: skip
            tl.store(x + here, u_t, mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def _finish(
    value, norm, sent, old, busy, new, change, size, of, bounds, offsets, length, chunk, chunks, width,
    DAMPING: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # The next iterate: LayerNorm of `value` if there is a `norm`, else `value` and what the token after sends.
    item = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BN)
    first, last = span(item, offsets, length, chunk, chunks)
    sequence, _, end = sequence_of(item, of, bounds, length, chunks)
    stop = tl.where(tl.load(busy + sequence) != 0, last, first)
    largest_change = tl.max(tl.zeros((BN,), new.dtype.element_ty), 0)
    largest = largest_change
    for start in range(first, stop, BT):
        t = start + tl.arange(0, BT)
        mask = (t < last)[:, None] & (n < width)[None, :]
        here = t[:, None] * width + n[None, :]
        x = tl.load(value + here, mask=mask, other=0.0)
        y = tl.load(old + here, mask=mask, other=0.0)
        if norm is not None:
            x = tl.where(mask, x - (tl.sum(x, 1) / width)[:, None], 0.0)
            x *= tl.rsqrt(tl.sum(x * x, 1) / width + 1e-5)[:, None]
            x *= tl.load(norm + n, mask=n < width, other=0.0)[None, :]
            x += tl.load(norm + width + n, mask=n < width, other=0.0)[None, :]
        if sent is not None:
            x += tl.load(sent + here + width, mask=mask & (t + 1 < end)[:, None], other=0.0)
        largest_change = tl.maximum(largest_change, largest_of(tl.where(mask, x - y, 0.0)))
        if DAMPING != 1.0:
            x = y + DAMPING * (x - y)
        tl.store(new + here, x, mask=mask)
        largest = tl.maximum(largest, largest_of(tl.where(mask, x, 0.0)))
    end_sweep(old, new, change, size, item, stop, last, n, width, largest_change, largest, BT)


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
