"""The two passes of the selective scan over spans of chunks: a tile of time by channels for one state after the other.

A tile is a chunk. For each of the N states its decays and inputs are formed in registers, scanned in a tree, and read
out at once; only the state before each chunk goes to memory, which is what the backward pass starts from. Between
chunks all states of the program's channels are carried in registers. Padding is the identity: a step size of zero.
"""

import triton
import triton.language as tl

from seqmix.kernels._triton import span
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
    x, dt, A, B, C, D, initial, y, borders, final, product, offsets, length, chunk, chunks,
    relay_offsets, relay_length, relay_chunk, relay_chunks, channels, states,
    SIGNED: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # Without y only `final` and `product`, the states and the products of the decays of the span, are wanted.
    blocks = tl.cdiv(channels, BD)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    n_all = tl.arange(0, BN)[:, None]
    mask_d = d < channels
    mask_s = (n_all < states) & mask_d[None, :]
    tile = n_all * channels + d[None, :]
    step = tl.arange(0, BT)
    is_last = (step == BT - 1)[:, None]
    # The states before the span (BN, BD), and the products of its decays.
    if initial is None:
        carry = tl.zeros((BN, BD), ACC)
    else:
        carry = tl.load(initial + item * states * channels + tile, mask=mask_s, other=0.0).to(ACC)
    total = tl.full((BN, BD), 1.0, ACC)
    begin, end = span(item, relay_offsets, relay_length, relay_chunk, relay_chunks)
    for index in range(0, end - begin):
        c = begin + index
        first, last = span(c, offsets, length, chunk, chunks)
        t = first + step
        mask_t = t < last
        mask = mask_t[:, None] & mask_d[None, :]
        where = t[:, None] * channels + d[None, :]
        # A chunk (BT, BD).
        x_t = tl.load(x + where, mask=mask, other=0.0).to(ACC)
        dt_t = tl.load(dt + where, mask=mask, other=0.0).to(ACC)
        if borders is not None:
            tl.store(borders + c * states * channels + tile, carry, mask=mask_s)
        y_t = tl.load(D + d, mask=mask_d, other=0.0).to(ACC)[None, :] * x_t
        # One state index after the other: scanned over the chunk, joined to the state before it.
        for n in range(0, states):
            A_n = tl.load(A + n * channels + d, mask=mask_d, other=0.0).to(ACC)
            B_n = tl.load(B + t * states + n, mask=mask_t, other=0.0).to(ACC)
            a = decay_of(dt_t * A_n[None, :], SIGNED)
            a, s = tl.associative_scan((a, dt_t * x_t * B_n[:, None]), 0, combine)
            s += a * pick(carry, n_all == n)[None, :]
            carry = tl.where(n_all == n, pick(s, is_last)[None, :], carry)
            if y is None:
                total = tl.where(n_all == n, total * pick(a, is_last)[None, :], total)
            else:
                C_n = tl.load(C + t * states + n, mask=mask_t, other=0.0).to(ACC)
                y_t += s * C_n[:, None]
        if y is not None:
            tl.store(y + where, y_t.to(y.dtype.element_ty), mask=mask)
    tl.store(final + item * states * channels + tile, carry, mask=mask_s)
    if product is not None:
        tl.store(product + item * states * channels + tile, total, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def backward(
    dy, x, dt, A, B, C, D, borders, incoming, dx, ddt, dA, dB, dC, dD, outgoing, product,
    offsets, length, chunk, chunks, relay_offsets, relay_length, relay_chunk, relay_chunks, channels, states, rows,
    SIGNED: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, BN: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # Rows of a tile run back in time, for g_t = C_t dy_t + a_{t+1} g_{t+1}; the states are scanned forwards and turned
    # over. Without dx only `outgoing` and `product`, what the span hands on and the factor of what came in, are wanted.
    blocks = tl.cdiv(channels, BD)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    block = (tl.program_id(0) % blocks).to(tl.int64)
    d = block * BD + tl.arange(0, BD)
    n_all = tl.arange(0, BN)[:, None]
    mask_d = d < channels
    mask_s = (n_all < states) & mask_d[None, :]
    tile = n_all * channels + d[None, :]
    step = tl.arange(0, BT)
    is_last = (step == BT - 1)[:, None]
    # What comes into the span (BN, BD), and the products of its decays.
    if incoming is None:
        carry = tl.zeros((BN, BD), ACC)
    else:
        carry = tl.load(incoming + item * states * channels + tile, mask=mask_s, other=0.0).to(ACC)
    total = tl.full((BN, BD), 1.0, ACC)
    sum_A = tl.zeros((BN, BD), ACC)
    sum_D = tl.zeros((BD,), ACC)
    begin, end = span(item, relay_offsets, relay_length, relay_chunk, relay_chunks)
    for index in range(0, end - begin):
        c = end - 1 - index
        first, last = span(c, offsets, length, chunk, chunks)
        t = last - 1 - step
        mask_t = t >= first
        mask = mask_t[:, None] & mask_d[None, :]
        where = t[:, None] * channels + d[None, :]
        mask_n = ((t + 1 >= first) & (t + 1 < last))[:, None] & mask_d[None, :]
        # A chunk (BT, BD).
        dt_t = tl.load(dt + where, mask=mask, other=0.0).to(ACC)
        dt_next = tl.load(dt + where + channels, mask=mask_n, other=0.0).to(ACC)
        dy_t = tl.load(dy + where, mask=mask, other=0.0).to(ACC)
        if dx is not None:
            x_t = tl.load(x + where, mask=mask, other=0.0).to(ACC)
            dx_t = tl.load(D + d, mask=mask_d, other=0.0).to(ACC)[None, :] * dy_t
            ddt_t = tl.zeros((BT, BD), ACC)
            sum_D += tl.sum(dy_t * x_t, 0)
            # The step before each one, in order of time and aligned with the turned rows.
            p = last - BT + step - 1
            mask_b = (p >= first)[:, None] & mask_d[None, :]
            before = p[:, None] * channels + d[None, :]
            dt_p = tl.load(dt + before, mask=mask_b, other=0.0).to(ACC)
            x_p = dt_p * tl.load(x + before, mask=mask_b, other=0.0).to(ACC)
        # One state index after the other: g_t, scanned back over the chunk.
        for n in range(0, states):
            A_n = tl.load(A + n * channels + d, mask=mask_d, other=0.0).to(ACC)
            C_n = tl.load(C + t * states + n, mask=mask_t, other=0.0).to(ACC)
            through, g = tl.associative_scan(
                (decay_of(dt_next * A_n[None, :], SIGNED), dy_t * C_n[:, None]), 0, combine
            )
            g += through * pick(carry, n_all == n)[None, :]
            slope = exponential(dt_t * A_n[None, :])
            a = slope
            if SIGNED:
                a = 2.0 * slope - 1.0
                slope = 2.0 * slope
            carry = tl.where(n_all == n, pick(a * g, is_last)[None, :], carry)
            # The states again from the one before the chunk, and what they give.
            if dx is None:
                total = tl.where(n_all == n, total * pick(a * through, is_last)[None, :], total)
            else:
                B_n = tl.load(B + t * states + n, mask=mask_t, other=0.0).to(ACC)[:, None]
                B_p = tl.load(B + p * states + n, mask=p >= first, other=0.0).to(ACC)[:, None]
                start = tl.load(borders + (c * states + n) * channels + d, mask=mask_d, other=0.0)
                source = tl.where((p + 1 == first)[:, None], start[None, :], x_p * B_p)
                _, s = tl.associative_scan((decay_of(dt_p * A_n[None, :], SIGNED), source), 0, combine)
                s = tl.flip(s, 0)
                slope *= g * s
                s = a * s + dt_t * x_t * B_n
                ddt_t += slope * A_n[None, :] + g * x_t * B_n
                dx_t += g * dt_t * B_n
                sum_A += tl.where(n_all == n, tl.sum(slope * dt_t, 0)[None, :], 0.0)
                part = (block * rows + t) * states + n
                tl.store(dB + part, tl.sum(g * dt_t * x_t, 1), mask=mask_t)
                tl.store(dC + part, tl.sum(tl.where(mask, dy_t * s, 0.0), 1), mask=mask_t)
        if dx is not None:
            tl.store(dx + where, dx_t.to(dx.dtype.element_ty), mask=mask)
            tl.store(ddt + where, ddt_t.to(ddt.dtype.element_ty), mask=mask)
    tl.store(outgoing + item * states * channels + tile, carry, mask=mask_s)
    if product is not None:
        tl.store(product + item * states * channels + tile, total, mask=mask_s)
    if dx is not None:
        tl.store(dA + item * states * channels + tile, sum_A, mask=mask_s)
        tl.store(dD + item * channels + d, sum_D, mask=mask_d)
