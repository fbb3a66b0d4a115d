"""Sweeps of the adjoint of the fixed-point Mamba in Triton, and the gradients at their end.

The norm back by rows, the selective scan's own backward pass, which forms the states again, the pullback through mixing
and gates by rows, a product with W, and the sum with what the token after sends. Letters as in `triton`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import RUNTIME, launch, span
from seqmix.kernels.fixed_point.kronecker_triton import Pullback
from seqmix.kernels.fixed_point.low_rank import LowRank
from seqmix.kernels.fixed_point.low_rank_triton import mixed_back, store_mixing_gradient, tile
from seqmix.kernels.fixed_point.selective_scan.cell import Gates, Normed, norm
from seqmix.kernels.fixed_point.selective_scan.tokens import Gradients
from seqmix.kernels.fixed_point.selective_scan.triton import Sweeps
from seqmix.kernels.selective_scan import triton as selective_scan


@triton.jit(do_not_specialize=RUNTIME)
def _norm_back(
    p_zeta, p_unit, p_inverse, p_norm, p_do, p_offsets, length, chunk, chunks, width,
    BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    i_span = tl.program_id(0).to(tl.int64)
    o_n = tl.arange(0, BN)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    for start in range(first, last, BT):
        o_t = start + tl.arange(0, BT)
        mask = (o_t < last)[:, None] & (o_n < width)[None, :]
        o_here = o_t[:, None] * width + o_n[None, :]
        b_g = (
            tl.load(p_zeta + o_here, mask=mask, other=0.0) * tl.load(p_norm + o_n, mask=o_n < width, other=0.0)[None, :]
        )  # (BT, BN), (BN,)
        b_unit = tl.load(p_unit + o_here, mask=mask, other=0.0)  # (BT, BN)
        b_g -= (tl.sum(b_g, 1) / width)[:, None] + b_unit * (tl.sum(b_unit * b_g, 1) / width)[:, None]
        tl.store(p_do + o_here, b_g * tl.load(p_inverse + o_t, mask=o_t < last, other=0.0)[:, None], mask=mask)  # (BT,)


@triton.jit
def _unit_back(p_pre, p_upstream, p_out, o_t, at, out_at, o_s, mask, states, row, columns):
    b_raw = tl.load(p_pre + o_t[:, None] * row + at + o_s[None, :], mask=mask, other=0.0)  # (BT, BS)
    b_d = tl.load(p_upstream + o_t[:, None] * states + o_s[None, :], mask=mask, other=0.0)  # (BT, BS)
    b_inverse = tl.rsqrt(tl.sum(b_raw * b_raw, 1) + 1e-5)[:, None]
    b_raw *= b_inverse
    b_d = b_inverse * (b_d - b_raw * tl.sum(b_raw * b_d, 1)[:, None])
    tl.store(p_out + o_t[:, None] * columns + out_at + o_s[None, :], b_d, mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def _pull(
    p_pre, p_u, p_y, p_dy, p_dx, p_db, p_dc, p_back, p_out,
    p_offsets, length, chunk, chunks, width, states, rank, row, columns,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES_B: tl.constexpr, SEES_C: tl.constexpr,
    SEES_MIXING: tl.constexpr, BR: tl.constexpr, BS: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # `p_back` becomes dy + K^T dx where dy is given, and out (L, columns) the wanted columns of dp.
    i_span = tl.program_id(0).to(tl.int64)
    o_n, o_s = tl.arange(0, BN), tl.arange(0, BS)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    at_c = 0
    at_mixing = 0
    if SEES_B:
        at_c += states
        at_mixing += states
    if SEES_C:
        at_mixing += states
    for start in range(first, last, BT):
        o_t = start + tl.arange(0, BT)
        mask_t = o_t < last
        mask = mask_t[:, None] & (o_n < width)[None, :]
        mask_s = mask_t[:, None] & (o_s < states)[None, :]
        o_here = o_t[:, None] * width + o_n[None, :]
        if SEES_B:
            _unit_back(p_pre, p_db, p_out, o_t, 0, 0, o_s, mask_s, states, row, columns)
        if SEES_C:
            _unit_back(p_pre, p_dc, p_out, o_t, states, at_c, o_s, mask_s, states, row, columns)
        if p_dy is not None:
            b_w = tl.load(p_dx + o_here, mask=mask, other=0.0)  # (BT, BN)
            b_value = tl.load(p_dy + o_here, mask=mask, other=0.0)  # (BT, BN)
            b_value += mixed_back(p_pre, o_t, 2 * states, o_n, mask, mask_t, width, rank, row, b_w, STRENGTH, PRODUCT)
            tl.store(p_back + o_here, b_value, mask=mask)
            if SEES_MIXING:
                # (BT, BN)
                b_e = tl.load(p_y + o_here, mask=mask, other=0.0) - tl.load(p_u + o_here, mask=mask, other=0.0)
                store_mixing_gradient(
                    p_pre, p_out, o_t, 2 * states, at_mixing, o_n, mask, mask_t, width, rank, row, columns, b_w, b_e,
                    STRENGTH, PRODUCT, BR,
                )  # fmt: skip


class AdjointSweeps:
    """The launches of all adjoint sweeps of one solve, for dy (L, D) and ds (S, D, N), that of the final states."""

    def __init__(self, forward: Sweeps, gates: Gates, x: Tensor, y: Tensor, dy: Tensor, ds: Tensor) -> None:
        self.forward, self.cell, self.x, self.y, self.dy, self.ds = forward, forward.cell, x, y, dy, ds
        self.pre, self.b, self.c = gates.pre.contiguous(), gates.b.contiguous(), gates.c.contiguous()
        o, _, self.borders = forward.scan(x, self.b, self.c)
        self.normed: Normed = norm(o, forward.norm)
        mixing = self.cell.mixing
        rank = mixing.rank if isinstance(mixing, LowRank) else 0
        # Twice as much is alive in a tile as in one of a sweep.
        self.options = forward.options | tile(mixing.width, 2048) | {"BR": triton.next_power_of_2(max(1, rank))}
        self.kronecker = (
            None if isinstance(mixing, LowRank) else Pullback(mixing, gates.factors, self.pre, y, forward.u)
        )

    def through_scan(self, zeta: Tensor) -> tuple[Tensor, ...]:
        """The gradients of x, dt, A, b, c, D and s_0 from that of y (L, D)."""
        f, i, pieces = self.forward, self.forward.inputs, self.forward.cut.pieces
        do = torch.empty_like(zeta)
        launch(
            _norm_back, pieces.spans.number, zeta, self.normed.unit, self.normed.inverse, f.norm, do,
            *pieces.spans.arguments, f.sizes[0], **f.tile,
        )  # fmt: skip
        x, dt, b, c, do = (f.batched(t) for t in (self.x, i.dt, self.b, self.c, do))
        arguments = (do, self.ds, x, dt, i.A, b, c, i.D, f.s0, self.borders)
        dx, ddt, dA, db, dc, dD, ds0 = selective_scan.backward(*arguments, f.offsets, False)
        dx, ddt, db, dc = (t.flatten(0, 1) for t in (dx, ddt, db, dc))
        return dx, ddt, dA, db, dc, dD, ds0

    def pull(
        self, dx: Tensor, db: Tensor, dc: Tensor, dy: Tensor, sees: dict[str, bool], columns: int
    ) -> tuple[Tensor, Tensor]:
        """dy + K^T dx, and the columns of dp (L, columns) that `sees` asks for."""
        f, spans = self.forward, self.forward.cut.pieces.spans
        back, out = torch.empty_like(dx), dx.new_empty(len(dx), columns)
        given = dy if self.kronecker is None else None
        launch(
            _pull, spans.number, self.pre, f.u, self.y, given, dx, db, dc, back, out, *spans.arguments, *f.sizes,
            columns, **sees, **self.options,
        )  # fmt: skip
        if self.kronecker is not None:
            back = dy + self.kronecker.apply(dx, None)
            if sees["SEES_MIXING"]:
                self.kronecker.store_gradient(dx, None, out)
        return back, out

    def __call__(self, zeta: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """As `Sweeps.__call__`."""
        zeta, f = zeta.contiguous(), self.forward
        dx, _, _, db, dc, *_ = self.through_scan(zeta)
        value, dpre = self.pull(dx, db, dc, self.dy, f.sees, self.cell.recurrent)
        sent = None if f.weight is None else dpre @ f.weight
        return f.finish(value, None, sent, zeta, busy.view(torch.uint8), damping)

    def gradients(self, zeta: Tensor) -> Gradients:
        """From zeta (L, D), the whole gradient that reaches y."""
        zeta = zeta.contiguous()
        dx, ddt, dA, db, dc, dD, ds0 = self.through_scan(zeta)
        everything = dict.fromkeys(self.forward.sees, True)
        back, dp = self.pull(dx, db, dc, torch.zeros_like(dx), everything, self.cell.size)
        dnorm = torch.stack(((zeta * self.normed.unit).sum(0), zeta.sum(0)))
        return Gradients(dx - back, ddt, dp, dA, dD, dnorm, ds0)
