"""Kronecker mixing in Triton, a program for every token: its factors in registers, its channels as an n_1 x n_2 matrix.

    R_i = sigmoid(.) * unit rows (triu(.)),  G_i = R_i R_i^T,  K_i = G_i / max(1, top eigenvalue of G_i)
    K e = strength K_1 E K_2                                              e (N,) as E (n_1, n_2)

Products are `tl.dot`, which wants 16 of everything; matrices are padded with zeros. Letters: L tokens, N = n_1 n_2
channels.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import launch
from seqmix.kernels.fixed_point.eigenvalue_triton import dot, side, square, squarings, top_of
from seqmix.kernels.fixed_point.kronecker import Kronecker
from seqmix.kernels.fixed_point.low_rank_triton import sigmoid
from seqmix.kernels.fixed_point.rows import Rows


@triton.jit
def _numbers(
    p_p, p_more, p_more0, i_t, at_first, i_s, at, seen_at, o_here, mask, row, seen, scale, SEES: tl.constexpr,
):  # fmt: skip
    """Pre-activations of one token, as `load_pre` has those of many."""
    b_value = tl.load(p_p + i_t * row + at + o_here, mask=mask, other=0.0)  # as o_here
    if SEES:
        is_first = (0 * o_here + at_first) != 0
        # as o_here
        b_added = tl.load(p_more + (i_t - 1) * seen + seen_at + o_here, mask=mask & (is_first == 0), other=0.0)
        b_added += tl.load(p_more0 + i_s * seen + seen_at + o_here, mask=mask & is_first, other=0.0)  # as o_here
        b_value += scale * b_added
    return b_value


@triton.jit
def _roots(
    p_p, p_more, p_more0, i_t, at_first, i_s, at, seen_at, n, row, seen, scale, SEES: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Unit rows (B, B), one over the lengths of the raw ones and gates (B,)."""
    o_i = tl.arange(0, B)
    o_triangle = o_i[:, None] * n - o_i[:, None] * (o_i[:, None] - 1) // 2 + o_i[None, :] - o_i[:, None]
    inside = (o_i[None, :] >= o_i[:, None]) & (o_i[None, :] < n)
    b_raw = _numbers(p_p, p_more, p_more0, i_t, at_first, i_s, at, seen_at, o_triangle, inside, row, seen, scale, SEES)
    b_inverse = tl.rsqrt(tl.sum(b_raw * b_raw, 1) + 1e-6)
    o_here = n * (n + 1) // 2 + o_i
    b_gate = _numbers(p_p, p_more, p_more0, i_t, at_first, i_s, at, seen_at, o_here, o_i < n, row, seen, scale, SEES)
    return b_raw * b_inverse[:, None], b_inverse, sigmoid(b_gate)


@triton.jit
def _factor(b_roots, b_gate, B: tl.constexpr, SQUARINGS: tl.constexpr):
    b_r = b_gate[:, None] * b_roots
    b_gram = dot(b_r, tl.trans(b_r))  # (B, B)
    top, _ = top_of(b_gram, B, SQUARINGS)
    return b_gram / tl.maximum(top, 1.0)


@triton.jit
def _targets(
    p_p, p_more, p_more0, p_y, p_y0, p_base, p_k1s, p_k2s, p_first, p_sequences, p_busy, p_target, n1, n2, row, seen,
    at, seen_at, seen_b,
    SEES_B: tl.constexpr, SEES_MIXING: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr, STRENGTH: tl.constexpr,
    SQUARINGS: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr,
):  # fmt: skip
    # b + K (y - b), where b is `p_base`; if that is None silu of the second N columns of p, with GATED times the third.
    i_t = tl.program_id(0).to(tl.int64)
    i_s = tl.load(p_sequences + i_t)  # scalar
    at_first = tl.load(p_first + i_t).to(tl.int32)  # scalar
    o_i, o_j = tl.arange(0, B1)[:, None], tl.arange(0, B2)[None, :]
    width = n1 * n2
    mask = (o_i < n1) & (o_j < n2)
    o_here = o_i * n2 + o_j
    # Once, or for a sequence that is done not at all.
    for _ in range(0, tl.load(p_busy + i_s).to(tl.int32)):  # scalar
        b_old = tl.load(p_y + i_t * width + o_here, mask=mask, other=0.0)  # (B1, B2)
        # b as a matrix (n_1, n_2).
        scale = 1.0
        if p_base is None:
            # What the gates see of the token before.
            if NORMED and (SEES_B or SEES_MIXING):
                is_first = (0 * o_here + at_first) != 0
                b_past = tl.load(p_y + (i_t - 1) * width + o_here, mask=mask & (is_first == 0), other=0.0)  # (B1, B2)
                b_past += tl.load(p_y0 + i_s * width + o_here, mask=mask & is_first, other=0.0)  # (B1, B2)
                scale = tl.rsqrt(tl.sum(tl.sum(b_past * b_past, 1), 0) / width + 0.0625)
            b_b = _numbers(
                p_p, p_more, p_more0, i_t, at_first, i_s, width, seen_b, o_here, mask, row, seen, scale, SEES_B
            )
            b_b *= sigmoid(b_b)
            if GATED:
                b_b *= tl.load(p_p + i_t * row + 2 * width + o_here, mask=mask, other=0.0)  # (B1, B2)
        else:
            b_b = tl.load(p_base + i_t * width + o_here, mask=mask, other=0.0)  # (B1, B2)
        # The factors, from this token's numbers or as they came.
        if SEES_MIXING:
            b_roots, _, b_gate = _roots(
                p_p, p_more, p_more0, i_t, at_first, i_s, at, seen_at, n1, row, seen, scale, SEES_MIXING, B1
            )
            b_k1 = STRENGTH * _factor(b_roots, b_gate, B1, SQUARINGS)
            skip = n1 * (n1 + 1) // 2 + n1
            b_roots, _, b_gate = _roots(
                p_p,
                p_more,
                p_more0,
                i_t,
                at_first,
                i_s,
                at + skip,
                seen_at + skip,
                n2,
                row,
                seen,
                scale,
                SEES_MIXING,
                B2,
            )
            b_k2 = _factor(b_roots, b_gate, B2, SQUARINGS)
        else:
            b_k1, b_k2 = square(p_k1s, i_t, n1, B1), square(p_k2s, i_t, n2, B2)  # (B1, B1), (B2, B2)
        # The target.
        tl.store(p_target + i_t * width + o_here, b_b + dot(dot(b_k1, b_old - b_b), b_k2), mask=mask)  # (B1, B2)


@triton.jit
def _apply(p_k1s, p_k2s, p_x, p_gates, p_out, n1, n2, row, B1: tl.constexpr, B2: tl.constexpr):
    # K x, where x comes with the factor sigmoid(-gate) if there are gates, the first N columns of (L, row).
    i_t = tl.program_id(0).to(tl.int64)
    o_i, o_j = tl.arange(0, B1)[:, None], tl.arange(0, B2)[None, :]
    mask = (o_i < n1) & (o_j < n2)
    o_here = o_i * n2 + o_j
    b_x = tl.load(p_x + i_t * n1 * n2 + o_here, mask=mask, other=0.0)  # (B1, B2)
    if p_gates is not None:
        b_x *= sigmoid(-tl.load(p_gates + i_t * row + o_here, mask=mask, other=0.0))  # (B1, B2)
    b_value = dot(dot(square(p_k1s, i_t, n1, B1), b_x), square(p_k2s, i_t, n2, B2))  # (B1, B2), (B1, B1), (B2, B2)
    tl.store(p_out + i_t * n1 * n2 + o_here, b_value, mask=mask)


@triton.jit
def _store_factor_gradient(p_pre, p_out, p_tops, p_vectors, b_dk, i_t, at, out_at, n, row, columns, B: tl.constexpr):
    o_i = tl.arange(0, B)
    b_roots, b_inverse, b_gate = _roots(p_pre, None, None, i_t, 0, 0, at, 0, n, row, 0, 0.0, False, B)
    b_r = b_gate[:, None] * b_roots
    b_gram = dot(b_r, tl.trans(b_r))  # (B, B)
    b_top = tl.load(p_tops + i_t)  # scalar
    b_vector = tl.load(p_vectors + i_t * n + o_i, mask=o_i < n, other=0.0)  # (B,)
    # A matrix whose top eigenvalue is below one is not divided by it.
    limit = tl.maximum(b_top, 1.0)
    dtop = tl.where(b_top > 1.0, -tl.sum(tl.sum(b_dk * b_gram, 1), 0) / (limit * limit), 0.0)
    b_dgram = b_dk / limit + dtop * b_vector[:, None] * b_vector[None, :]
    b_dr = dot(b_dgram + tl.trans(b_dgram), b_r)  # (B, B)
    b_dgate = tl.sum(b_dr * b_roots, 1) * b_gate * (1.0 - b_gate)
    b_drows = b_gate[:, None] * b_dr
    b_draw = b_inverse[:, None] * (b_drows - b_roots * tl.sum(b_roots * b_drows, 1)[:, None])
    o_triangle = o_i[:, None] * n - o_i[:, None] * (o_i[:, None] - 1) // 2 + o_i[None, :] - o_i[:, None]
    inside = (o_i[None, :] >= o_i[:, None]) & (o_i[None, :] < n)
    p_here = p_out + i_t * columns + out_at
    tl.store(p_here + o_triangle, b_draw, mask=inside)
    tl.store(p_here + n * (n + 1) // 2 + o_i, b_dgate, mask=o_i < n)


@triton.jit
def _gradient(
    p_pre, p_k1s, p_k2s, p_tops1, p_vectors1, p_tops2, p_vectors2, p_w, p_gates, p_e, p_base, p_out, n1, n2, row,
    columns, at, out_at,
    STRENGTH: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr,
):  # fmt: skip
    # The gradient of w^T K (e - b), where b is `p_base`; w comes with sigmoid(-gate) if there are gates.
    i_t = tl.program_id(0).to(tl.int64)
    o_i, o_j = tl.arange(0, B1)[:, None], tl.arange(0, B2)[None, :]
    width = n1 * n2
    mask = (o_i < n1) & (o_j < n2)
    o_here = o_i * n2 + o_j
    b_w = tl.load(p_w + i_t * width + o_here, mask=mask, other=0.0)  # (B1, B2)
    if p_gates is not None:
        b_w *= sigmoid(-tl.load(p_gates + i_t * row + o_here, mask=mask, other=0.0))  # (B1, B2)
    b_b = tl.load(p_base + i_t * width + o_here, mask=mask, other=0.0)  # (B1, B2)
    b_e = tl.load(p_e + i_t * width + o_here, mask=mask, other=0.0) - b_b  # (B1, B2)
    b_dk1 = STRENGTH * dot(dot(b_w, square(p_k2s, i_t, n2, B2)), tl.trans(b_e))  # (B1, B1), (B1, B2), (B2, B2)
    b_dk2 = dot(tl.trans(b_w), dot(square(p_k1s, i_t, n1, B1), b_e))  # (B2, B2), (B1, B2), (B1, B1)
    _store_factor_gradient(p_pre, p_out, p_tops1, p_vectors1, b_dk1, i_t, at, out_at, n1, row, columns, B1)
    skip = n1 * (n1 + 1) // 2 + n1
    _store_factor_gradient(
        p_pre, p_out, p_tops2, p_vectors2, b_dk2, i_t, at + skip, out_at + skip, n2, row, columns, B2
    )


def _options(mixing: Kronecker) -> dict[str, int]:
    B1, B2 = map(side, mixing.sides)
    return {"B1": B1, "B2": B2, "num_warps": 4 if B1 * B2 <= 512 else 8}


def _mixing_numbers(pre: Tensor, mixing: Kronecker) -> Tensor:
    """The columns (L, size) that make K: the last ones of a token's."""
    return pre[:, pre.shape[1] - mixing.size :]


class Targets:
    """b + K (y - b) for every token and sweep; `cell` is that of either layer."""

    def __init__(
        self, cell: Any, p: Tensor, more0: Tensor | None, y0: Tensor, rows: Rows, base: Tensor | None = None
    ) -> None:
        m = cell.mixing
        self.cell, self.p, self.more0, self.y0, self.mixing, self.base = cell, p, more0, y0, m, base
        self.first, self.sequence = rows.first.view(torch.uint8), rows.sequence
        self.sees = {"SEES_B": "b" in cell.hidden and base is None, "SEES_MIXING": "mixing" in cell.hidden}
        self.sees |= {"GATED": base is None and cell.gated, "NORMED": base is None and cell.normed}
        self.k1, self.k2 = None, None
        if "mixing" not in cell.hidden:
            self.k1, self.k2 = (k.contiguous() for k in m.factors(_mixing_numbers(p, m)))
        # Columns of p and of what the state adds: mixing comes last in both, b after lambda.
        seen_b = m.width if "lambda" in cell.hidden else 0
        self.places = (cell.size - m.size, cell.recurrent - m.size, seen_b)

    def __call__(self, y: Tensor, more: Tensor | None, busy: Tensor) -> Tensor:
        """Targets (L, N); those of sequences that are not `busy` (S,) are left out."""
        target = torch.empty_like(y)
        launch(
            _targets, len(y), self.p, more, self.more0, y, self.y0, self.base, self.k1, self.k2, self.first,
            self.sequence, busy, target, *self.mixing.sides, self.cell.size, self.cell.recurrent, *self.places,
            **self.sees, STRENGTH=float(self.mixing.strength), SQUARINGS=squarings(y), **_options(self.mixing),
        )  # fmt: skip
        return target


class Pullback:
    """K^T w and the gradients of w^T K (e - b), at pre-activations (L, M) that stay the same."""

    def __init__(self, mixing: Kronecker, factors: tuple[Tensor, ...], pre: Tensor, e: Tensor, base: Tensor):
        self.mixing, self.pre, self.e, self.base = mixing, pre, e, base.contiguous()
        self.k1, self.k2 = (k.contiguous() for k in factors)
        self.tops = [t.contiguous() for pair in mixing.tops(_mixing_numbers(pre, mixing)) for t in pair]
        self.options = _options(mixing)

    def apply(self, x: Tensor, gates: Tensor | None) -> Tensor:
        """K x, symmetric; x with the factor sigmoid(-gate) where the first N columns of `gates` (L, M) are gates."""
        out = torch.empty_like(x)
        launch(_apply, len(x), self.k1, self.k2, x, gates, out, *self.mixing.sides, self.pre.shape[1], **self.options)
        return out

    def store_gradient(self, w: Tensor, gates: Tensor | None, out: Tensor) -> None:
        """Write the last columns of out (L, columns)."""
        row, columns, size = self.pre.shape[1], out.shape[1], self.mixing.size
        launch(
            _gradient, len(w), self.pre, self.k1, self.k2, *self.tops, w, gates, self.e, self.base, out,
            *self.mixing.sides, row, columns, row - size, columns - size, STRENGTH=float(self.mixing.strength),
            **self.options,
        )  # fmt: skip
