"""Triton kernels for h_t = a h_{t-1} + x_t with one decay (D,) for all steps, which is never expanded in memory.

As in `triton.py`, with a row of decays in registers. Rounding a power of a the same way again and again would add up,
so powers are float64, within a tile too, and so is the carry from tile to tile.
"""

import triton
import triton.language as tl

from seqmix.kernels._triton import RUNTIME, program_of, span
from seqmix.kernels.diagonal_scan.tiles import load, row_of, scan_tile, store, times


@triton.jit
def _power(one, a, a_im, exponent, BITS: tl.constexpr, COMPLEX: tl.constexpr):
    """a^exponent for 0 <= exponent < 2^BITS, in the shape of `one`, by squaring."""
    power, power_im = one, one * 0.0
    for bit in tl.static_range(BITS):
        odd = ((exponent >> bit) & 1) == 1
        more, more_im = times(power, power_im, a, a_im, COMPLEX)
        power, power_im = tl.where(odd, more, power), tl.where(odd, more_im, power_im)
        a, a_im = times(a, a_im, a, a_im, COMPLEX)
    return power, power_im


@triton.jit(do_not_specialize=RUNTIME)
def forward(
    p_x, p_a, p_initial, p_h, p_final, p_product, p_offsets, length, chunk, chunks, channels,
    COMPLEX: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # Without `p_h` only `p_final` and `p_product` are wanted, as in triton.py.
    kind: tl.constexpr = p_final.dtype.element_ty
    BITS: tl.constexpr = 8
    tl.static_assert(BT < 256)
    i_span, o_d = program_of(channels, BD)
    o_at = i_span * channels + o_d
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    mask_d = o_d < channels
    o_step = tl.arange(0, BT)
    # Powers of the decay: for every row of a tile, for a whole tile, for the last one.
    one = tl.full((BD,), 1.0, tl.float64)
    b_a, b_a_im = load(p_a, o_d, mask_d, tl.float64, COMPLEX)  # (BD,)
    tile, tile_im = _power(tl.full((BT, BD), 1.0, tl.float64), b_a, b_a_im, (o_step + 1)[:, None], BITS, COMPLEX)
    tile, tile_im = tile.to(kind), tile_im.to(kind)
    decay = tl.broadcast_to(b_a[None, :], (BT, BD))
    decay_im = tl.broadcast_to(b_a_im[None, :], (BT, BD))
    whole, whole_im = _power(one, b_a, b_a_im, BT, BITS, COMPLEX)
    rest, rest_im = _power(one, b_a, b_a_im, (last - first - 1) % BT + 1, BITS, COMPLEX)
    # The state before the span, and the power of its length.
    total, total_im = one, one * 0.0
    b_carry, b_carry_im = one * 0.0, one * 0.0
    if p_initial is not None:
        b_carry, b_carry_im = load(p_initial, o_at, mask_d, tl.float64, COMPLEX)  # (BD,)
    for start in tl.range(first, last, BT, num_stages=STAGES):
        # A tile (BT, BD): scanned from zero, the state before it added.
        o_t = start + o_step
        mask = (o_t < last)[:, None] & mask_d[None, :]
        o_here = o_t[:, None] * channels + o_d[None, :]
        b_x, b_x_im = load(p_x, o_here, mask, kind, COMPLEX)  # (BT, BD)
        _, _, b_x, b_x_im = scan_tile(decay, decay_im, b_x, b_x_im, COMPLEX)
        is_end = (o_step == tl.minimum(last - start, BT) - 1)[:, None]
        if p_h is not None:
            b_h, b_h_im = times(tile, tile_im, b_carry.to(kind)[None, :], b_carry_im.to(kind)[None, :], COMPLEX)
            store(p_h, o_here, mask, b_h + b_x, b_h_im + b_x_im, COMPLEX)
        # The state after the tile.
        power, power_im = tl.where(start + BT < last, whole, rest), tl.where(start + BT < last, whole_im, rest_im)
        total, total_im = times(total, total_im, power, power_im, COMPLEX)
        b_carry, b_carry_im = times(b_carry, b_carry_im, power, power_im, COMPLEX)
        b_carry += row_of(b_x, is_end).to(tl.float64)
        b_carry_im += row_of(b_x_im, is_end).to(tl.float64)
    store(p_final, o_at, mask_d, b_carry, b_carry_im, COMPLEX)
    if p_product is not None:
        store(p_product, o_at, mask_d, total, total_im, COMPLEX)


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    p_dh, p_a, p_h, p_initial, p_dfinal, p_da, p_dx, p_dinitial, p_product, p_offsets, length, chunk, chunks, channels,
    COMPLEX: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # The carry is what flows into a step, conj(a) s_{t+1}, so step r of a tile takes conj(a)^r of it. `p_da` has one
    # row a span. Without `p_dx` only `p_dinitial` and `p_product` are wanted.
    kind: tl.constexpr = p_dinitial.dtype.element_ty
    BITS: tl.constexpr = 8
    tl.static_assert(BT < 256)
    i_span, o_d = program_of(channels, BD)
    o_at = i_span * channels + o_d
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    mask_d = o_d < channels
    o_step = tl.arange(0, BT)
    # Powers of the decay, conjugate, as in `forward`.
    one = tl.full((BD,), 1.0, tl.float64)
    b_a, b_a_im = load(p_a, o_d, mask_d, tl.float64, COMPLEX)  # (BD,)
    b_a_im = -b_a_im
    tile, tile_im = _power(tl.full((BT, BD), 1.0, tl.float64), b_a, b_a_im, o_step[:, None], BITS, COMPLEX)
    tile, tile_im = tile.to(kind), tile_im.to(kind)
    decay = tl.broadcast_to(b_a[None, :], (BT, BD))
    decay_im = tl.broadcast_to(b_a_im[None, :], (BT, BD))
    whole, whole_im = _power(one, b_a, b_a_im, BT, BITS, COMPLEX)
    rest, rest_im = _power(one, b_a, b_a_im, (last - first - 1) % BT + 1, BITS, COMPLEX)
    # What comes into the span, and the power of its length.
    total, total_im = one, one * 0.0
    b_carry, b_carry_im = one * 0.0, one * 0.0
    if p_dfinal is not None:
        b_carry, b_carry_im = load(p_dfinal, o_at, mask_d, tl.float64, COMPLEX)  # (BD,)
    sum_a = tl.zeros((BD,), kind)
    sum_im = tl.zeros((BD,), kind)
    if p_dx is not None:
        b_before, b_before_im = load(p_initial, o_at, mask_d, kind, COMPLEX)  # (BD,)
    for start in tl.range(first, last, BT, num_stages=STAGES):
        # A tile (BT, BD), its rows back in time: scanned from zero.
        o_t = first + last - 1 - (start + o_step)
        mask = (o_t >= first)[:, None] & mask_d[None, :]
        o_here = o_t[:, None] * channels + o_d[None, :]
        b_s, b_s_im = load(p_dh, o_here, mask, kind, COMPLEX)  # (BT, BD)
        _, _, b_s, b_s_im = scan_tile(decay, decay_im, b_s, b_s_im, COMPLEX)
        is_end = (o_step == tl.minimum(last - start, BT) - 1)[:, None]
        own, own_im = row_of(b_s, is_end).to(tl.float64), row_of(b_s_im, is_end).to(tl.float64)
        # The gradients, with what came in and h of the step before.
        if p_dx is not None:
            late, late_im = times(tile, tile_im, b_carry.to(kind)[None, :], b_carry_im.to(kind)[None, :], COMPLEX)
            b_s, b_s_im = b_s + late, b_s_im + late_im
            b_h, b_h_im = load(p_h, o_here - channels, mask & (o_t > first)[:, None], kind, COMPLEX)  # (BT, BD)
            b_h = tl.where((o_t > first)[:, None], b_h, b_before[None, :])
            b_h_im = tl.where((o_t > first)[:, None], b_h_im, b_before_im[None, :])
            b_g, b_g_im = times(b_s, b_s_im, b_h, -b_h_im, COMPLEX)
            sum_a += tl.sum(tl.where(mask, b_g, 0.0), 0)
            sum_im += tl.sum(tl.where(mask, b_g_im, 0.0), 0)
            store(p_dx, o_here, mask, b_s, b_s_im, COMPLEX)
        # What flows into the step before the tile.
        power, power_im = tl.where(start + BT < last, whole, rest), tl.where(start + BT < last, whole_im, rest_im)
        total, total_im = times(total, total_im, power, power_im, COMPLEX)
        own, own_im = times(own, own_im, b_a, b_a_im, COMPLEX)
        b_carry, b_carry_im = times(b_carry, b_carry_im, power, power_im, COMPLEX)
        b_carry, b_carry_im = b_carry + own, b_carry_im + own_im
    store(p_dinitial, o_at, mask_d, b_carry, b_carry_im, COMPLEX)
    if p_product is not None:
        store(p_product, o_at, mask_d, total, total_im, COMPLEX)
    if p_dx is not None:
        store(p_da, o_at, mask_d, sum_a, sum_im, COMPLEX)
