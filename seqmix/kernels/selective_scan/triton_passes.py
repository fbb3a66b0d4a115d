"""The two passes of the selective scan over spans of chunks: a tile of time by channels for one state after the other.

A tile is a chunk. For each of the N states its decays and inputs are formed in registers, scanned in a tree, and read
out at once; only the state before each chunk goes to memory, which is what the backward pass starts from. Between
chunks all states of the program's channels are carried in registers. Padding is the identity: a step size of zero.
"""

import triton
import triton.language as tl

from seqmix.kernels._triton import program_of, span
from seqmix.kernels._triton_chunks import RUNTIME


@triton.jit
def combine(a0, s0, a1, s1):
    return a0 * a1, a1 * s0 + s1


@triton.jit
def exponential(x):
    e = tl.exp(x)
    if x.dtype == tl.float32:
        # A GPU's exponential is off by two units in the last place, which thousands of decays near one multiply up.
        near = 1.0 + x * (1.0 + x * (1 / 2 + x * (1 / 6 + x * (1 / 24 + x * (1 / 120)))))
        e = tl.where(tl.abs(x) < 0.125, near, e)
    return e


@triton.jit
def decay_of(x, SIGNED: tl.constexpr):
    a = exponential(x)
    if SIGNED:
        a = 2.0 * a - 1.0
    return a


@triton.jit
def pick(tile, chosen):
    """The row of `tile` that is `chosen`."""
    return tl.sum(tl.where(chosen, tile, 0.0), 0)


@triton.jit(do_not_specialize=RUNTIME)
def forward(
    p_x, p_dt, p_A, p_B, p_C, p_D, p_initial, p_y, p_borders, p_final, p_product, p_offsets, length, chunk, chunks,
    p_relay_offsets, relay_length, relay_chunk, relay_chunks, channels, states,
    SIGNED: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # Without `p_y` only `p_final` and `p_product`, the states and the products of the decays of the span, are wanted.
    i_span, o_d = program_of(channels, BD)
    o_n = tl.arange(0, BN)[:, None]
    mask_d = o_d < channels
    mask_s = (o_n < states) & mask_d[None, :]
    o_tile = o_n * channels + o_d[None, :]
    o_step = tl.arange(0, BT)
    is_last = (o_step == BT - 1)[:, None]
    # The states before the span (BN, BD), and the products of its decays.
    if p_initial is None:
        b_carry = tl.zeros((BN, BD), ACC)
    else:
        b_carry = tl.load(p_initial + i_span * states * channels + o_tile, mask=mask_s, other=0.0).to(ACC)  # (BN, BD)
    total = tl.full((BN, BD), 1.0, ACC)
    begin, end = span(i_span, p_relay_offsets, relay_length, relay_chunk, relay_chunks)
    for index in range(0, end - begin):
        i_c = begin + index
        first, last = span(i_c, p_offsets, length, chunk, chunks)
        o_t = first + o_step
        mask_t = o_t < last
        mask = mask_t[:, None] & mask_d[None, :]
        o_where = o_t[:, None] * channels + o_d[None, :]
        # A chunk (BT, BD).
        b_x = tl.load(p_x + o_where, mask=mask, other=0.0).to(ACC)  # (BT, BD)
        b_dt = tl.load(p_dt + o_where, mask=mask, other=0.0).to(ACC)  # (BT, BD)
        if p_borders is not None:
            tl.store(p_borders + i_c * states * channels + o_tile, b_carry, mask=mask_s)
        b_y = tl.load(p_D + o_d, mask=mask_d, other=0.0).to(ACC)[None, :] * b_x  # (BD,)
        # One state index after the other: scanned over the chunk, joined to the state before it.
        for n in range(0, states):
            b_A = tl.load(p_A + n * channels + o_d, mask=mask_d, other=0.0).to(ACC)  # (BD,)
            b_B = tl.load(p_B + o_t * states + n, mask=mask_t, other=0.0).to(ACC)  # (BT,)
            b_a = decay_of(b_dt * b_A[None, :], SIGNED)
            b_a, b_s = tl.associative_scan((b_a, b_dt * b_x * b_B[:, None]), 0, combine)
            b_s += b_a * pick(b_carry, o_n == n)[None, :]
            b_carry = tl.where(o_n == n, pick(b_s, is_last)[None, :], b_carry)
            if p_y is None:
                total = tl.where(o_n == n, total * pick(b_a, is_last)[None, :], total)
            else:
                b_C = tl.load(p_C + o_t * states + n, mask=mask_t, other=0.0).to(ACC)  # (BT,)
                b_y += b_s * b_C[:, None]
        if p_y is not None:
            tl.store(p_y + o_where, b_y.to(p_y.dtype.element_ty), mask=mask)
    tl.store(p_final + i_span * states * channels + o_tile, b_carry, mask=mask_s)
    if p_product is not None:
        tl.store(p_product + i_span * states * channels + o_tile, total, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    p_dy, p_x, p_dt, p_A, p_B, p_C, p_D, p_borders, p_incoming, p_dx, p_ddt, p_dA, p_dB, p_dC, p_dD, p_outgoing,
    p_product,
    p_offsets, length, chunk, chunks, p_relay_offsets, relay_length, relay_chunk, relay_chunks, channels, states, rows,
    SIGNED: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # Rows of a tile run back in time, for g_t = C_t dy_t + a_{t+1} g_{t+1}; the states are scanned forwards and turned
    # over. Without `p_dx` only `p_outgoing` and `p_product`, what the span hands on and the factor of what came in, are
    # wanted.
    blocks = tl.cdiv(channels, BD)
    i_span = (tl.program_id(0) // blocks).to(tl.int64)
    i_block = (tl.program_id(0) % blocks).to(tl.int64)
    o_d = i_block * BD + tl.arange(0, BD)
    o_n = tl.arange(0, BN)[:, None]
    mask_d = o_d < channels
    mask_s = (o_n < states) & mask_d[None, :]
    o_tile = o_n * channels + o_d[None, :]
    o_step = tl.arange(0, BT)
    is_last = (o_step == BT - 1)[:, None]
    # What comes into the span (BN, BD), and the products of its decays.
    if p_incoming is None:
        b_carry = tl.zeros((BN, BD), ACC)
    else:
        b_carry = tl.load(p_incoming + i_span * states * channels + o_tile, mask=mask_s, other=0.0).to(ACC)  # (BN, BD)
    total = tl.full((BN, BD), 1.0, ACC)
    sum_A = tl.zeros((BN, BD), ACC)
    sum_D = tl.zeros((BD,), ACC)
    begin, end = span(i_span, p_relay_offsets, relay_length, relay_chunk, relay_chunks)
    for index in range(0, end - begin):
        i_c = end - 1 - index
        first, last = span(i_c, p_offsets, length, chunk, chunks)
        # Rows of the chunk.
        o_t = last - 1 - o_step
        mask_t = o_t >= first
        mask = mask_t[:, None] & mask_d[None, :]
        o_where = o_t[:, None] * channels + o_d[None, :]
        mask_n = ((o_t + 1 >= first) & (o_t + 1 < last))[:, None] & mask_d[None, :]
        # A chunk (BT, BD).
        b_dt = tl.load(p_dt + o_where, mask=mask, other=0.0).to(ACC)  # (BT, BD)
        b_dt_next = tl.load(p_dt + o_where + channels, mask=mask_n, other=0.0).to(ACC)  # (BT, BD)
        b_dy = tl.load(p_dy + o_where, mask=mask, other=0.0).to(ACC)  # (BT, BD)
        if p_dx is not None:
            b_x = tl.load(p_x + o_where, mask=mask, other=0.0).to(ACC)  # (BT, BD)
            b_dx = tl.load(p_D + o_d, mask=mask_d, other=0.0).to(ACC)[None, :] * b_dy  # (BD,)
            b_ddt = tl.zeros((BT, BD), ACC)
            sum_D += tl.sum(b_dy * b_x, 0)
            # The step before each one, in order of time and aligned with the turned rows.
            o_p = last - BT + o_step - 1
            mask_b = (o_p >= first)[:, None] & mask_d[None, :]
            o_before = o_p[:, None] * channels + o_d[None, :]
            b_dt_p = tl.load(p_dt + o_before, mask=mask_b, other=0.0).to(ACC)  # (BT, BD)
            b_x_p = b_dt_p * tl.load(p_x + o_before, mask=mask_b, other=0.0).to(ACC)  # (BT, BD)
        # One state index after the other: g_t, scanned back over the chunk.
        for n in range(0, states):
            b_A = tl.load(p_A + n * channels + o_d, mask=mask_d, other=0.0).to(ACC)  # (BD,)
            b_C = tl.load(p_C + o_t * states + n, mask=mask_t, other=0.0).to(ACC)  # (BT,)
            through, b_g = tl.associative_scan(
                (decay_of(b_dt_next * b_A[None, :], SIGNED), b_dy * b_C[:, None]), 0, combine
            )
            b_g += through * pick(b_carry, o_n == n)[None, :]
            slope = exponential(b_dt * b_A[None, :])
            b_a = slope
            if SIGNED:
                b_a = 2.0 * slope - 1.0
                slope = 2.0 * slope
            b_carry = tl.where(o_n == n, pick(b_a * b_g, is_last)[None, :], b_carry)
            # The states again from the one before the chunk, and what they give.
            if p_dx is None:
                total = tl.where(o_n == n, total * pick(b_a * through, is_last)[None, :], total)
            else:
                b_B = tl.load(p_B + o_t * states + n, mask=mask_t, other=0.0).to(ACC)[:, None]  # (BT,)
                b_B_p = tl.load(p_B + o_p * states + n, mask=o_p >= first, other=0.0).to(ACC)[:, None]  # (BT,)
                b_start = tl.load(p_borders + (i_c * states + n) * channels + o_d, mask=mask_d, other=0.0)  # (BD,)
                source = tl.where((o_p + 1 == first)[:, None], b_start[None, :], b_x_p * b_B_p)
                _, b_s = tl.associative_scan((decay_of(b_dt_p * b_A[None, :], SIGNED), source), 0, combine)
                b_s = tl.flip(b_s, 0)
                slope *= b_g * b_s
                b_s = b_a * b_s + b_dt * b_x * b_B
                b_ddt += slope * b_A[None, :] + b_g * b_x * b_B
                b_dx += b_g * b_dt * b_B
                sum_A += tl.where(o_n == n, tl.sum(slope * b_dt, 0)[None, :], 0.0)
                o_part = (i_block * rows + o_t) * states + n
                tl.store(p_dB + o_part, tl.sum(b_g * b_dt * b_x, 1), mask=mask_t)
                tl.store(p_dC + o_part, tl.sum(tl.where(mask, b_dy * b_s, 0.0), 1), mask=mask_t)
        if p_dx is not None:
            tl.store(p_dx + o_where, b_dx.to(p_dx.dtype.element_ty), mask=mask)
            tl.store(p_ddt + o_where, b_ddt.to(p_ddt.dtype.element_ty), mask=mask)
    tl.store(p_outgoing + i_span * states * channels + o_tile, b_carry, mask=mask_s)
    if p_product is not None:
        tl.store(p_product + i_span * states * channels + o_tile, total, mask=mask_s)
    if p_dx is not None:
        tl.store(p_dA + i_span * states * channels + o_tile, sum_A, mask=mask_s)
        tl.store(p_dD + i_span * channels + o_d, sum_D, mask=mask_d)
