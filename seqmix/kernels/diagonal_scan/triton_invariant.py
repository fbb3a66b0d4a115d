"""Triton kernels for h_t = a h_{t-1} + x_t with one decay (D,) for all steps, which is never expanded in memory.

As in `triton.py`, with a row of decays in registers. Rounding a power of a the same way again and again would add up,
so powers are float64, within a tile too, and so is the carry from tile to tile.
"""

import triton
import triton.language as tl

from seqmix.kernels._triton import RUNTIME, span
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
    x, a, initial, h, final, product, offsets, length, chunk, chunks, channels,
    COMPLEX: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # Without h only `final` and `product` are wanted, as in triton.py.
    kind: tl.constexpr = final.dtype.element_ty
    BITS: tl.constexpr = 8
    tl.static_assert(BT < 256)
    blocks = tl.cdiv(channels, BD)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    at = item * channels + d
    first, last = span(item, offsets, length, chunk, chunks)
    mask_d = d < channels
    step = tl.arange(0, BT)
    # Powers of the decay: for every row of a tile, for a whole tile, for the last one.
    one = tl.full((BD,), 1.0, tl.float64)
    a_t, a_im = load(a, d, mask_d, tl.float64, COMPLEX)
    tile, tile_im = _power(tl.full((BT, BD), 1.0, tl.float64), a_t, a_im, (step + 1)[:, None], BITS, COMPLEX)
    tile, tile_im = tile.to(kind), tile_im.to(kind)
    decay = tl.broadcast_to(a_t[None, :], (BT, BD))
    decay_im = tl.broadcast_to(a_im[None, :], (BT, BD))
    whole, whole_im = _power(one, a_t, a_im, BT, BITS, COMPLEX)
    rest, rest_im = _power(one, a_t, a_im, (last - first - 1) % BT + 1, BITS, COMPLEX)
    # The state before the span, and the power of its length.
    total, total_im = one, one * 0.0
    carry, carry_im = one * 0.0, one * 0.0
    if initial is not None:
        carry, carry_im = load(initial, at, mask_d, tl.float64, COMPLEX)
    for start in tl.range(first, last, BT, num_stages=STAGES):
        # A tile (BT, BD): scanned from zero, the state before it added.
        t = start + step
        mask = (t < last)[:, None] & mask_d[None, :]
        here = t[:, None] * channels + d[None, :]
        x_t, x_im = load(x, here, mask, kind, COMPLEX)
        _, _, x_t, x_im = scan_tile(decay, decay_im, x_t, x_im, COMPLEX)
        is_end = (step == tl.minimum(last - start, BT) - 1)[:, None]
        if h is not None:
            h_t, h_im = times(tile, tile_im, carry.to(kind)[None, :], carry_im.to(kind)[None, :], COMPLEX)
            store(h, here, mask, h_t + x_t, h_im + x_im, COMPLEX)
        # The state after the tile.
        power, power_im = tl.where(start + BT < last, whole, rest), tl.where(start + BT < last, whole_im, rest_im)
        total, total_im = times(total, total_im, power, power_im, COMPLEX)
        carry, carry_im = times(carry, carry_im, power, power_im, COMPLEX)
        carry += row_of(x_t, is_end).to(tl.float64)
        carry_im += row_of(x_im, is_end).to(tl.float64)
    store(final, at, mask_d, carry, carry_im, COMPLEX)
    if product is not None:
        store(product, at, mask_d, total, total_im, COMPLEX)


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    dh, a, h, initial, dfinal, da, dx, dinitial, product, offsets, length, chunk, chunks, channels,
    COMPLEX: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # The carry is what flows into a step, conj(a) s_{t+1}, so step r of a tile takes conj(a)^r of it. `da` has one row
    # a span. Without dx only `dinitial` and `product` are wanted.
    kind: tl.constexpr = dinitial.dtype.element_ty
    BITS: tl.constexpr = 8
    tl.static_assert(BT < 256)
    blocks = tl.cdiv(channels, BD)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    at = item * channels + d
    first, last = span(item, offsets, length, chunk, chunks)
    mask_d = d < channels
    step = tl.arange(0, BT)
    # Powers of the decay, conjugate, as in `forward`.
    one = tl.full((BD,), 1.0, tl.float64)
    a_t, a_im = load(a, d, mask_d, tl.float64, COMPLEX)
    a_im = -a_im
    tile, tile_im = _power(tl.full((BT, BD), 1.0, tl.float64), a_t, a_im, step[:, None], BITS, COMPLEX)
    tile, tile_im = tile.to(kind), tile_im.to(kind)
    decay = tl.broadcast_to(a_t[None, :], (BT, BD))
    decay_im = tl.broadcast_to(a_im[None, :], (BT, BD))
    whole, whole_im = _power(one, a_t, a_im, BT, BITS, COMPLEX)
    rest, rest_im = _power(one, a_t, a_im, (last - first - 1) % BT + 1, BITS, COMPLEX)
    # What comes into the span, and the power of its length.
    total, total_im = one, one * 0.0
    carry, carry_im = one * 0.0, one * 0.0
    if dfinal is not None:
        carry, carry_im = load(dfinal, at, mask_d, tl.float64, COMPLEX)
    sum_a = tl.zeros((BD,), kind)
    sum_im = tl.zeros((BD,), kind)
    if dx is not None:
        before, before_im = load(initial, at, mask_d, kind, COMPLEX)
    for start in tl.range(first, last, BT, num_stages=STAGES):
        # A tile (BT, BD), its rows back in time: scanned from zero.
        t = first + last - 1 - (start + step)
        mask = (t >= first)[:, None] & mask_d[None, :]
        here = t[:, None] * channels + d[None, :]
        s, s_im = load(dh, here, mask, kind, COMPLEX)
        _, _, s, s_im = scan_tile(decay, decay_im, s, s_im, COMPLEX)
        is_end = (step == tl.minimum(last - start, BT) - 1)[:, None]
        own, own_im = row_of(s, is_end).to(tl.float64), row_of(s_im, is_end).to(tl.float64)
        # The gradients, with what came in and h of the step before.
        if dx is not None:
            late, late_im = times(tile, tile_im, carry.to(kind)[None, :], carry_im.to(kind)[None, :], COMPLEX)
            s, s_im = s + late, s_im + late_im
            h_t, h_im = load(h, here - channels, mask & (t > first)[:, None], kind, COMPLEX)
            h_t = tl.where((t > first)[:, None], h_t, before[None, :])
            h_im = tl.where((t > first)[:, None], h_im, before_im[None, :])
            g, g_im = times(s, s_im, h_t, -h_im, COMPLEX)
            sum_a += tl.sum(tl.where(mask, g, 0.0), 0)
            sum_im += tl.sum(tl.where(mask, g_im, 0.0), 0)
            store(dx, here, mask, s, s_im, COMPLEX)
        # What flows into the step before the tile.
        power, power_im = tl.where(start + BT < last, whole, rest), tl.where(start + BT < last, whole_im, rest_im)
        total, total_im = times(total, total_im, power, power_im, COMPLEX)
        own, own_im = times(own, own_im, a_t, a_im, COMPLEX)
        carry, carry_im = times(carry, carry_im, power, power_im, COMPLEX)
        carry, carry_im = carry + own, carry_im + own_im
    store(dinitial, at, mask_d, carry, carry_im, COMPLEX)
    if product is not None:
        store(product, at, mask_d, total, total_im, COMPLEX)
    if dx is not None:
        store(da, at, mask_d, sum_a, sum_im, COMPLEX)
