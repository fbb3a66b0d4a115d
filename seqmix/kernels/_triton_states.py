"""Matrix states in Triton, carried from chunk to chunk and back; equations and letters as in `_triton_chunks`."""

import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import launch, span
from seqmix.kernels._triton_chunks import RUNTIME, Layout, constants, dot, program, to_end


@triton.jit(do_not_specialize=RUNTIME)
def _states(
    k, v, g, initial, borders, final, offsets, length, chunk, chunks,
    relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    value_blocks = tl.cdiv(values, BV)
    s, h, block = program(heads, tl.cdiv(keys, BK) * value_blocks)
    i = (block // value_blocks) * BK + tl.arange(0, BK)
    j = (block % value_blocks) * BV + tl.arange(0, BV)
    mask_s = (i < keys)[:, None] & (j < values)[None, :]
    tile = i[:, None] * values + j[None, :]
    step = tl.arange(0, BT)
    state = tl.load(initial + (s * heads + h) * keys * values + tile, mask=mask_s, other=0.0).to(ACC)
    begin, end = span(s, relay_offsets, relay_length, relay_chunk, relay_chunks)
    for n in range(0, end - begin):
        c = begin + n
        first, last = span(c, offsets, length, chunk, chunks)
        tl.store(borders + (c * heads + h) * keys * values + tile, state, mask=mask_s)
        t = first + step
        mask_t = t < last
        row = t * heads + h
        mask_k = (i < keys)[:, None] & mask_t[None, :]
        mask_v = mask_t[:, None] & (j < values)[None, :]
        k_t = tl.load(k + row[None, :] * keys + i[:, None], mask=mask_k, other=0.0).to(ACC)
        v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        if GATES == 1:
            k_t *= tl.exp(to_end(g, row, heads, t + 1 < last, 0, ACC))[None, :]
            state *= tl.exp(tl.sum(tl.load(g + row, mask=mask_t, other=0.0).to(ACC), 0))
        if GATES == 2:
            where = row[None, :] * keys + i[:, None]
            mask_l = (i < keys)[:, None] & (t + 1 < last)[None, :]
            k_t *= tl.exp(to_end(g, where, heads * keys, mask_l, 1, ACC))
            state *= tl.exp(tl.sum(tl.load(g + where, mask=mask_k, other=0.0).to(ACC), 1))[:, None]
        state += dot(k_t, v_t, DOT, ACC, PRECISION)
    tl.store(final + (s * heads + h) * keys * values + tile, state, mask=mask_s)


@triton.jit(do_not_specialize=RUNTIME)
def _states_backward(
    q, do, g, dfinal, dstates, dinitial, offsets, length, chunk, chunks,
    relay_offsets, relay_length, relay_chunk, relay_chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # The gradient of the state after every chunk, from the last chunk to the first.
    value_blocks = tl.cdiv(values, BV)
    s, h, block = program(heads, tl.cdiv(keys, BK) * value_blocks)
    i = (block // value_blocks) * BK + tl.arange(0, BK)
    j = (block % value_blocks) * BV + tl.arange(0, BV)
    mask_s = (i < keys)[:, None] & (j < values)[None, :]
    tile = i[:, None] * values + j[None, :]
    step = tl.arange(0, BT)
    state = tl.load(dfinal + (s * heads + h) * keys * values + tile, mask=mask_s, other=0.0).to(ACC)
    begin, end = span(s, relay_offsets, relay_length, relay_chunk, relay_chunks)
    for n in range(0, end - begin):
        c = end - 1 - n
        first, last = span(c, offsets, length, chunk, chunks)
        tl.store(dstates + (c * heads + h) * keys * values + tile, state, mask=mask_s)
        t = first + step
        mask_t = t < last
        row = t * heads + h
        mask_k = (i < keys)[:, None] & mask_t[None, :]
        mask_v = mask_t[:, None] & (j < values)[None, :]
        q_t = tl.load(q + row[None, :] * keys + i[:, None], mask=mask_k, other=0.0).to(ACC)
        do_t = tl.load(do + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        if GATES == 1:
            g_t = tl.load(g + row, mask=mask_t, other=0.0).to(ACC)
            q_t *= tl.exp(tl.cumsum(g_t, 0))[None, :]
            state *= tl.exp(tl.sum(g_t, 0))
        if GATES == 2:
            g_t = tl.load(g + row[None, :] * keys + i[:, None], mask=mask_k, other=0.0).to(ACC)
            q_t *= tl.exp(tl.cumsum(g_t, 1))
            state *= tl.exp(tl.sum(g_t, 1))[:, None]
        state += dot(q_t, do_t, DOT, ACC, PRECISION)
    tl.store(dinitial + (s * heads + h) * keys * values + tile, state, mask=mask_s)


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
