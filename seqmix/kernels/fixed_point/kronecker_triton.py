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
    p, more, more0, t, at_first, sequence, at, seen_at, here, mask, row, seen, scale, SEES: tl.constexpr,
):  # fmt: skip
    """Pre-activations of one token, as `load_pre` has those of many."""
    value = tl.load(p + t * row + at + here, mask=mask, other=0.0)
    if SEES:
        is_first = (0 * here + at_first) != 0
        added = tl.load(more + (t - 1) * seen + seen_at + here, mask=mask & (is_first == 0), other=0.0)
        added += tl.load(more0 + sequence * seen + seen_at + here, mask=mask & is_first, other=0.0)
        value += scale * added
    return value


@triton.jit
def _roots(
    p, more, more0, t, at_first, sequence, at, seen_at, n, row, seen, scale, SEES: tl.constexpr, B: tl.constexpr,
):  # fmt: skip
    """Unit rows (B, B), one over the lengths of the raw ones and gates (B,)."""
    i = tl.arange(0, B)
    triangle = i[:, None] * n - i[:, None] * (i[:, None] - 1) // 2 + i[None, :] - i[:, None]
    inside = (i[None, :] >= i[:, None]) & (i[None, :] < n)
    raw = _numbers(p, more, more0, t, at_first, sequence, at, seen_at, triangle, inside, row, seen, scale, SEES)
    inverse = tl.rsqrt(tl.sum(raw * raw, 1) + 1e-6)
    here = n * (n + 1) // 2 + i
    gate = _numbers(p, more, more0, t, at_first, sequence, at, seen_at, here, i < n, row, seen, scale, SEES)
    return raw * inverse[:, None], inverse, sigmoid(gate)


@triton.jit
def _factor(roots, gate, B: tl.constexpr, SQUARINGS: tl.constexpr):
    r = gate[:, None] * roots
    gram = dot(r, tl.trans(r))
    top, _ = top_of(gram, B, SQUARINGS)
    return gram / tl.maximum(top, 1.0)


@triton.jit
def _targets(
    p, more, more0, y, y0, base, k1s, k2s, first, sequences, busy, target, n1, n2, row, seen, at, seen_at, b_seen,
    SEES_B: tl.constexpr, SEES_MIXING: tl.constexpr, GATED: tl.constexpr, NORMED: tl.constexpr,
    STRENGTH: tl.constexpr, SQUARINGS: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr,
):  # fmt: skip
    # b + K (y - b), where b is `base`; if that is None silu of the second N columns of p, with GATED times the third.
    t = tl.program_id(0).to(tl.int64)
    sequence = tl.load(sequences + t)
    at_first = tl.load(first + t).to(tl.int32)
    i, j = tl.arange(0, B1)[:, None], tl.arange(0, B2)[None, :]
    width = n1 * n2
    mask = (i < n1) & (j < n2)
    here = i * n2 + j
    # Once, or for a sequence that is done not at all.
    for _ in range(0, tl.load(busy + sequence).to(tl.int32)):
        old = tl.load(y + t * width + here, mask=mask, other=0.0)
        # b as a matrix (n_1, n_2).
        scale = 1.0
        if base is None:
            if NORMED and (SEES_B or SEES_MIXING):
                is_first = (0 * here + at_first) != 0
                past = tl.load(y + (t - 1) * width + here, mask=mask & (is_first == 0), other=0.0)
                past += tl.load(y0 + sequence * width + here, mask=mask & is_first, other=0.0)
                scale = tl.rsqrt(tl.sum(tl.sum(past * past, 1), 0) / width + 0.0625)
            b = _numbers(p, more, more0, t, at_first, sequence, width, b_seen, here, mask, row, seen, scale, SEES_B)
            b *= sigmoid(b)
            if GATED:
                b *= tl.load(p + t * row + 2 * width + here, mask=mask, other=0.0)
        else:
            b = tl.load(base + t * width + here, mask=mask, other=0.0)
        # The factors, from this token's numbers or as they came.
        if SEES_MIXING:
            roots, _, gate = _roots(
                p, more, more0, t, at_first, sequence, at, seen_at, n1, row, seen, scale, SEES_MIXING, B1
            )
            k1 = STRENGTH * _factor(roots, gate, B1, SQUARINGS)
            skip = n1 * (n1 + 1) // 2 + n1
            roots, _, gate = _roots(
                p, more, more0, t, at_first, sequence, at + skip, seen_at + skip, n2, row, seen, scale, SEES_MIXING, B2
            )
            k2 = _factor(roots, gate, B2, SQUARINGS)
        else:
            k1, k2 = square(k1s, t, n1, B1), square(k2s, t, n2, B2)
        tl.store(target + t * width + here, b + dot(dot(k1, old - b), k2), mask=mask)


@triton.jit
def _apply(k1s, k2s, x, gates, out, n1, n2, row, B1: tl.constexpr, B2: tl.constexpr):
    # K x, where x comes with the factor sigmoid(-gate) if there are gates, the first N columns of (L, row).
    t = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, B1)[:, None], tl.arange(0, B2)[None, :]
    mask = (i < n1) & (j < n2)
    here = i * n2 + j
    x_t = tl.load(x + t * n1 * n2 + here, mask=mask, other=0.0)
    if gates is not None:
        x_t *= sigmoid(-tl.load(gates + t * row + here, mask=mask, other=0.0))
    value = dot(dot(square(k1s, t, n1, B1), x_t), square(k2s, t, n2, B2))
    tl.store(out + t * n1 * n2 + here, value, mask=mask)


@triton.jit
def _store_factor_gradient(pre, out, tops, vectors, dk, t, at, out_at, n, row, columns, B: tl.constexpr):
    i = tl.arange(0, B)
    roots, inverse, gate = _roots(pre, None, None, t, 0, 0, at, 0, n, row, 0, 0.0, False, B)
    r = gate[:, None] * roots
    gram = dot(r, tl.trans(r))
    top = tl.load(tops + t)
    vector = tl.load(vectors + t * n + i, mask=i < n, other=0.0)
    # A matrix whose top eigenvalue is below one is not divided by it.
    limit = tl.maximum(top, 1.0)
    dtop = tl.where(top > 1.0, -tl.sum(tl.sum(dk * gram, 1), 0) / (limit * limit), 0.0)
    dgram = dk / limit + dtop * vector[:, None] * vector[None, :]
    dr = dot(dgram + tl.trans(dgram), r)
    dgate = tl.sum(dr * roots, 1) * gate * (1.0 - gate)
    drows = gate[:, None] * dr
    draw = inverse[:, None] * (drows - roots * tl.sum(roots * drows, 1)[:, None])
    triangle = i[:, None] * n - i[:, None] * (i[:, None] - 1) // 2 + i[None, :] - i[:, None]
    inside = (i[None, :] >= i[:, None]) & (i[None, :] < n)
    here = out + t * columns + out_at
    tl.store(here + triangle, draw, mask=inside)
    tl.store(here + n * (n + 1) // 2 + i, dgate, mask=i < n)


@triton.jit
def _gradient(
    pre, k1s, k2s, tops1, vectors1, tops2, vectors2, w, gates, e, base, out, n1, n2, row, columns, at, out_at,
    STRENGTH: tl.constexpr, B1: tl.constexpr, B2: tl.constexpr,
):  # fmt: skip
    # The gradient of w^T K (e - b), where b is `base`; w comes with sigmoid(-gate) if there are gates.
    t = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, B1)[:, None], tl.arange(0, B2)[None, :]
    width = n1 * n2
    mask = (i < n1) & (j < n2)
    here = i * n2 + j
    w_t = tl.load(w + t * width + here, mask=mask, other=0.0)
    if gates is not None:
        w_t *= sigmoid(-tl.load(gates + t * row + here, mask=mask, other=0.0))
    b = tl.load(base + t * width + here, mask=mask, other=0.0)
    e_t = tl.load(e + t * width + here, mask=mask, other=0.0) - b
    dk1 = STRENGTH * dot(dot(w_t, square(k2s, t, n2, B2)), tl.trans(e_t))
    dk2 = dot(tl.trans(w_t), dot(square(k1s, t, n1, B1), e_t))
    _store_factor_gradient(pre, out, tops1, vectors1, dk1, t, at, out_at, n1, row, columns, B1)
    skip = n1 * (n1 + 1) // 2 + n1
    _store_factor_gradient(pre, out, tops2, vectors2, dk2, t, at + skip, out_at + skip, n2, row, columns, B2)


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
        b_seen = m.width if "lambda" in cell.hidden else 0
        self.places = (cell.size - m.size, cell.recurrent - m.size, b_seen)

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
