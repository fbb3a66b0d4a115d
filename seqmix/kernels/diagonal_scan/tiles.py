"""Tiles of time by channels for the Triton kernels: real numbers, or complex ones as two real parts."""

import triton
import triton.language as tl


@triton.jit
def times(a, a_im, b, b_im, COMPLEX: tl.constexpr):
    """a b; without COMPLEX the imaginary parts are placeholders that nothing depends on."""
    if COMPLEX:
        product, product_im = a * b - a_im * b_im, a * b_im + a_im * b
    else:
        product, product_im = a * b, a_im
    return product, product_im


@triton.jit
def _combine(a0, x0, a1, x1):
    # The decays may be wider than the values.
    return a0 * a1, a1.to(x0.dtype) * x0 + x1


@triton.jit
def _combine_complex(a0, b0, x0, y0, a1, b1, x1, y1):
    a, b = a1.to(x0.dtype), b1.to(x0.dtype)
    return a0 * a1 - b0 * b1, a0 * b1 + b0 * a1, a * x0 - b * y0 + x1, a * y0 + b * x0 + y1


@triton.jit
def load(p_x, o_x, mask, kind: tl.constexpr, COMPLEX: tl.constexpr):
    """Real and imaginary part in the type `kind`, zero where masked."""
    if COMPLEX:
        o_part = tl.arange(0, 2)
        # as o_x, and 2
        b_both = tl.load(p_x + tl.expand_dims(o_x, -1) * 2 + o_part, mask=tl.expand_dims(mask, -1), other=0.0)
        b_x, b_x_im = tl.split(b_both.to(kind))
    else:
        b_x = tl.load(p_x + o_x, mask=mask, other=0.0).to(kind)  # as o_x
        b_x_im = b_x
    return b_x, b_x_im


@triton.jit
def store(p_x, o_x, mask, b_x, b_x_im, COMPLEX: tl.constexpr):
    if COMPLEX:
        o_part = tl.arange(0, 2)
        b_both = tl.join(b_x, b_x_im).to(p_x.dtype.element_ty)
        tl.store(p_x + tl.expand_dims(o_x, -1) * 2 + o_part, b_both, mask=tl.expand_dims(mask, -1))
    else:
        tl.store(p_x + o_x, b_x.to(p_x.dtype.element_ty), mask=mask)


@triton.jit
def scan_tile(a, a_im, x, x_im, COMPLEX: tl.constexpr):
    """Products of the decays and states from zero, for every step of a tile (BT, BD)."""
    if COMPLEX:
        a, a_im, x, x_im = tl.associative_scan((a, a_im, x, x_im), 0, _combine_complex)
    else:
        a, x = tl.associative_scan((a, x), 0, _combine)
    return a, a_im, x, x_im


@triton.jit
def row_of(tile, is_row):
    """The row of a tile (BT, BD) that `is_row` (BT, 1) marks."""
    return tl.sum(tl.where(is_row, tile, 0.0), 0)
