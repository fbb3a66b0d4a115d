"""Matrix states in Triton, carried from chunk to chunk and back; equations and letters as in `_triton_chunks`."""

import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import launch, span
from seqmix.kernels._triton_chunks import RUNTIME, Layout, constants, dot, program, steps_of, to_end


@triton.jit(do_not_specialize=RUNTIME)
def _states(
    p_k, p_v, p_g, p_initial, p_borders, p_final, p_offsets, length, chunk, chunks,
    p_relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    value_blocks = tl.cdiv(values, BV)
    i_s, i_h, i_block = program(heads, tl.cdiv(keys, BK) * value_blocks)
    o_k = (i_block // value_blocks) * BK + tl.arange(0, BK)
    o_v = (i_block % value_blocks) * BV + tl.arange(0, BV)
    mask_s = (o_k < keys)[:, None] & (o_v < values)[None, :]
    o_tile = o_k[:, None] * values + o_v[None, :]
    o_step = tl.arange(0, BT)
    # (BK, BV)
    b_state = tl.load(p_initial + (i_s * heads + i_h) * keys * values + o_tile, mask=mask_s, other=0.0).to(ACC)
    begin, end = span(i_s, p_relay_offsets, relay_length, relay_chunk, relay_chunks)
    for n in range(0, end - begin):
        i_c = begin + n
        first, last = span(i_c, p_offsets, length, chunk, chunks)
        tl.store(p_borders + (i_c * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)
        o_t = first + o_step
        mask_t = o_t < last
        o_row = o_t * heads + i_h
        mask_k = (o_k < keys)[:, None] & mask_t[None, :]
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        b_k = tl.load(p_k + o_row[None, :] * keys + o_k[:, None], mask=mask_k, other=0.0).to(ACC)  # (BK, BT)
        b_v = tl.load(p_v + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        if GATES == 1:
            b_k *= tl.exp(to_end(p_g, o_row, heads, o_t + 1 < last, 0, ACC))[None, :]
            b_state *= tl.exp(tl.sum(tl.load(p_g + o_row, mask=mask_t, other=0.0).to(ACC), 0))  # (BT,)
        if GATES == 2:
            o_where = o_row[None, :] * keys + o_k[:, None]
            mask_l = (o_k < keys)[:, None] & (o_t + 1 < last)[None, :]
            b_k *= tl.exp(to_end(p_g, o_where, heads * keys, mask_l, 1, ACC))
            b_state *= tl.exp(tl.sum(tl.load(p_g + o_where, mask=mask_k, other=0.0).to(ACC), 1))[:, None]  # (BK, BT)
        b_state += dot(b_k, b_v, DOT, ACC, PRECISION)  # (BK, BV)
    tl.store(p_final + (i_s * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def _states_backward(
    p_q, p_do, p_g, p_dfinal, p_dstates, p_dinitial, p_offsets, length, chunk, chunks,
    p_relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # The gradient of the state after every chunk, from the last chunk to the first.
    value_blocks = tl.cdiv(values, BV)
    i_s, i_h, i_block = program(heads, tl.cdiv(keys, BK) * value_blocks)
    o_k = (i_block // value_blocks) * BK + tl.arange(0, BK)
    o_v = (i_block % value_blocks) * BV + tl.arange(0, BV)
    mask_s = (o_k < keys)[:, None] & (o_v < values)[None, :]
    o_tile = o_k[:, None] * values + o_v[None, :]
    o_step = tl.arange(0, BT)
    # (BK, BV)
    b_state = tl.load(p_dfinal + (i_s * heads + i_h) * keys * values + o_tile, mask=mask_s, other=0.0).to(ACC)
    begin, end = span(i_s, p_relay_offsets, relay_length, relay_chunk, relay_chunks)
    for n in range(0, end - begin):
        i_c = end - 1 - n
        first, last = span(i_c, p_offsets, length, chunk, chunks)
        tl.store(p_dstates + (i_c * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)
        o_t = first + o_step
        mask_t = o_t < last
        o_row = o_t * heads + i_h
        mask_k = (o_k < keys)[:, None] & mask_t[None, :]
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        b_q = tl.load(p_q + o_row[None, :] * keys + o_k[:, None], mask=mask_k, other=0.0).to(ACC)  # (BK, BT)
        b_do = tl.load(p_do + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        if GATES == 1:
            b_g = tl.load(p_g + o_row, mask=mask_t, other=0.0).to(ACC)  # (BT,)
            b_q *= tl.exp(tl.cumsum(b_g, 0))[None, :]
            b_state *= tl.exp(tl.sum(b_g, 0))
        if GATES == 2:
            b_g = tl.load(p_g + o_row[None, :] * keys + o_k[:, None], mask=mask_k, other=0.0).to(ACC)  # (BK, BT)
            b_q *= tl.exp(tl.cumsum(b_g, 1))
            b_state *= tl.exp(tl.sum(b_g, 1))[:, None]
        b_state += dot(b_q, b_do, DOT, ACC, PRECISION)  # (BK, BV)
    tl.store(p_dinitial + (i_s * heads + i_h) * keys * values + o_tile, b_state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def _reads(
    p_w, p_u, p_borders, p_offsets, length, chunk, chunks, heads, keys, values,
    MINUS: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # u of all chunks at once, plus or minus what w reads of the states before them.
    i_c, i_h, i_block = program(heads, tl.cdiv(values, BV))
    _, o_row, mask_t = steps_of(i_c, i_h, heads, p_offsets, length, chunk, chunks, BT)
    o_v = i_block * BV + tl.arange(0, BV)
    o_here = o_row[:, None] * values + o_v[None, :]
    mask_v = mask_t[:, None] & (o_v < values)[None, :]
    b_u = tl.load(p_u + o_here, mask=mask_v, other=0.0).to(ACC)  # (BT, BV)
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        b_w = tl.load(
            p_w + o_row[:, None] * keys + o_k[None, :], mask=mask_t[:, None] & (o_k < keys)[None, :], other=0.0
        )  # (BT, BK)
        o_tile = (i_c * heads + i_h) * keys * values + o_k[:, None] * values + o_v[None, :]
        # (BK, BV)
        b_state = tl.load(p_borders + o_tile, mask=(o_k < keys)[:, None] & (o_v < values)[None, :], other=0.0)
        b_read = dot(b_w, b_state, DOT, ACC, PRECISION)  # (BT, BV)
        if MINUS:
            b_u -= b_read
        else:
            b_u += b_read
    tl.store(p_u + o_here, b_u.to(p_u.dtype.element_ty), mask=mask_v)


def states(
    plan: Layout, gates: int, k: Tensor, v: Tensor, g: Tensor, initial: Tensor, borders: Tensor, final: Tensor
) -> None:
    """Write the states before chunks into `borders` (C, H, K, V), and those at the ends into `final` (S, H, K, V)."""
    programs = plan.relay.number * plan.heads * plan.key_blocks * plan.value_blocks
    arguments = (k, v, g, initial, borders, final, *plan.chunks.arguments, *plan.relay.arguments, *plan.sizes)
    launch(_states, programs, *arguments, **constants(plan, gates))


def states_backward(
    plan: Layout, gates: int, q: Tensor, do: Tensor, g: Tensor, dfinal: Tensor, dstates: Tensor, dinitial: Tensor
) -> None:
    """Write the gradients of the states after chunks into `dstates`, those of the initial ones into `dinitial`."""
    programs = plan.relay.number * plan.heads * plan.key_blocks * plan.value_blocks
    arguments = (q, do, g, dfinal, dstates, dinitial, *plan.chunks.arguments, *plan.relay.arguments, *plan.sizes)
    launch(_states_backward, programs, *arguments, **constants(plan, gates))


def reads(plan: Layout, w: Tensor, u: Tensor, borders: Tensor, *, minus: bool) -> None:
    """Write u (L, H, V) plus or minus w S into u, with w (L, H, K) and the states S before chunks (C, H, K, V)."""
    programs = plan.chunks.number * plan.heads * plan.value_blocks
    options = plan.options | {"BK": plan.BK, "BV": plan.BV, "num_warps": 4, "num_stages": 2}
    launch(_reads, programs, w, u, borders, *plan.chunks.arguments, *plan.sizes, MINUS=minus, **options)
