"""Triton kernels over chunks of a matrix state: gated linear attention and, with its writes as values, the delta rule.

In a chunk that starts from S, with G_t the sum of its log decays up to t and D_tj = e^{G_t - G_j} for j <= t,

    o_t = e^{G_t} S^T q_t + sum_j D_tj (q_t . k_j) v_j,     S_end = e^{G_end} S + sum_j e^{G_end - G_j} k_j v_j^T.

Every exponent is a sum of the decays between two steps, so nothing is divided by and strong decays underflow to zero
where they should. Sums are taken from the side where they stay short; where two running sums are subtracted they are
float64. `GATES` is 0 without decay, 1 for one of each head, 2 for one of each key; with 2 the scores D_tj (q_t . k_j)
come from memory. Letters: L rows of all sequences, C chunks, S sequences, H heads, K and V widths.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import INTERPRETED, Chunked, Spans, cut, fresh, lanes, launch, span, whole_sequences

RUNTIME = ["length", "chunk", "chunks", "relay_length", "relay_chunk", "relay_chunks", "rows"]


class Layout(NamedTuple):
    """How a call is cut into chunks, and the constants its kernels are compiled for."""

    chunks: Spans
    relay: Spans  # the chunks of each sequence
    heads: int
    keys: int
    values: int
    options: dict[str, Any]  # BT, DOT, ACC and PRECISION of every kernel
    BK: int
    BV: int

    @property
    def sizes(self) -> tuple[int, int, int]:
        return self.heads, self.keys, self.values

    @property
    def key_blocks(self) -> int:
        return triton.cdiv(self.keys, self.BK)

    @property
    def value_blocks(self) -> int:
        return triton.cdiv(self.values, self.BV)


def layout(op: str, q: Tensor, k: Tensor, v: Tensor, cu_seqlens: Tensor | None, chunk: int) -> Layout:
    """Chunks of at most `chunk` rows of q, k (B, T, H, K) and v (B, T, H, V).

    bfloat16 is multiplied as it is. float16 goes through TF32, which has as many digits and cannot overflow in the
    state; float32 is never shortened.
    """
    chunked = every_slot(cut(whole_sequences(op, q, cu_seqlens), chunk))
    double, kinds = q.dtype == torch.float64, {q.dtype, k.dtype, v.dtype}
    # The interpreter would multiply the bits of bfloat16.
    short = tl.bfloat16 if kinds == {torch.bfloat16} and not INTERPRETED else tl.float32
    options = {
        "BT": max(16, lanes(q.shape[1], chunk)),  # tl.dot wants 16 of everything
        "DOT": tl.float64 if double else short,
        "ACC": tl.float64 if double else tl.float32,
        "PRECISION": "tf32" if kinds <= {torch.float16, torch.bfloat16} else "ieee",
    }
    keys, values = q.shape[3], v.shape[3]
    # Without tensor cores a product is unrolled: narrow tiles compile in a third of the time.
    widest = 32 if options["PRECISION"] == "ieee" else 64
    widths = (max(16, lanes(width, widest)) for width in (keys, values))
    return Layout(chunked.spans, chunked.relay, q.shape[2], keys, values, options, *widths)


def every_slot(chunked: Chunked) -> Chunked:
    """Chunks that no sequence needs, all of them empty, go to the last one: whatever walks chunks then writes all."""
    offsets = chunked.relay.offsets
    if offsets is None:
        return chunked
    extended = torch.cat((offsets[:-1], torch.full_like(offsets[-1:], chunked.spans.number)))
    return chunked._replace(relay=chunked.relay._replace(offsets=extended))


def border_slots(batch: int, length: int, sequences: int, chunk: int) -> int:
    """How many states before chunks there is room for; never one, a size that `torch.compile` would treat apart."""
    return batch * (length // chunk) + sequences + 1


@triton.jit
def dot(a, b, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr):
    return tl.dot(a.to(DOT), b.to(DOT), input_precision=PRECISION, out_dtype=ACC)


@triton.jit
def running(g, row, mask, GATES: tl.constexpr):
    """Sums of log decays up to each step of a chunk, in float64: differences of them follow."""
    if GATES == 1:
        step = tl.load(g + row, mask=mask, other=0.0).to(tl.float64)
        step = tl.where(step < -1e4, -1e4, step)  # e^-inf: infinities have no difference
    else:
        step = tl.zeros(row.shape, tl.float64)
    return tl.cumsum(step, 0)


@triton.jit
def between(upto, causal, ACC: tl.constexpr):
    """D (BT, BT): the decay from step j to step t, zero where not `causal`."""
    exponent = tl.where(causal, upto[:, None] - upto[None, :], 0.0).to(ACC)
    return tl.where(causal, tl.exp(exponent), 0.0)


@triton.jit
def to_end(g, where, stride, mask, axis: tl.constexpr, ACC: tl.constexpr):
    """Sums of log decays after each step of a chunk; `mask` is where there is a next step, `stride` elements on."""
    return tl.cumsum(tl.load(g + where + stride, mask=mask, other=0.0).to(ACC), axis, reverse=True)


@triton.jit
def program(heads, blocks):
    program = tl.program_id(0)
    return (program // (heads * blocks)).to(tl.int64), (program // blocks) % heads, program % blocks


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


@triton.jit(do_not_specialize=RUNTIME)
def _output(
    q, k, v, g, scores, borders, o, offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c, h, block = program(heads, tl.cdiv(values, BV))
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    t = first + step
    mask_t = t < last
    row = t * heads + h
    j = block * BV + tl.arange(0, BV)
    mask_v = mask_t[:, None] & (j < values)[None, :]
    causal = step[:, None] >= step[None, :]
    out = tl.zeros((BT, BV), ACC)
    pairs = tl.zeros((BT, BT), ACC)
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        where = row[:, None] * keys + i[None, :]
        q_t = tl.load(q + where, mask=mask_k, other=0.0)
        tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
        state = tl.load(borders + tile, mask=(i < keys)[:, None] & (j < values)[None, :], other=0.0)
        if GATES == 2:
            g_t = tl.load(g + where, mask=mask_k, other=0.0).to(ACC)
            out += dot(q_t.to(ACC) * tl.exp(tl.cumsum(g_t, 0)), state, DOT, ACC, PRECISION)
        else:
            k_t = tl.load(k + row[None, :] * keys + i[:, None], mask=mask_t[None, :] & (i < keys)[:, None], other=0.0)
            out += dot(q_t, state, DOT, ACC, PRECISION)
            pairs += dot(q_t, k_t, DOT, ACC, PRECISION)
    if GATES == 2:
        pairs = tl.load(scores + row[:, None] * BT + step[None, :], mask=mask_t[:, None], other=0.0)
    else:
        upto = running(g, row, mask_t, GATES)
        pairs = tl.where(causal, pairs * between(upto, causal, ACC), 0.0)
        out *= tl.exp(upto.to(ACC))[:, None]
    v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
    out += dot(pairs, v_t, DOT, ACC, PRECISION)
    tl.store(o + row[:, None] * values + j[None, :], out.to(o.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def _values_backward(
    q, k, do, g, scores, dstates, dv, offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # dv_j = sum_t D_tj (q_t . k_j) do_t + e^{G_end - G_j} dS^T k_j; without dstates the first sum alone.
    c, h, block = program(heads, tl.cdiv(values, BV))
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    t = first + step
    mask_t = t < last
    row = t * heads + h
    j = block * BV + tl.arange(0, BV)
    mask_v = mask_t[:, None] & (j < values)[None, :]
    causal = step[:, None] >= step[None, :]
    out = tl.zeros((BT, BV), ACC)
    pairs = tl.zeros((BT, BT), ACC)
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        where = row[:, None] * keys + i[None, :]
        k_t = tl.load(k + where, mask=mask_k, other=0.0)
        if GATES < 2:
            q_t = tl.load(q + where, mask=mask_k, other=0.0)
            pairs += dot(q_t, tl.trans(k_t), DOT, ACC, PRECISION)
        if dstates is not None:
            tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
            state = tl.load(dstates + tile, mask=(i < keys)[:, None] & (j < values)[None, :], other=0.0)
            if GATES == 2:
                mask_l = (t + 1 < last)[:, None] & (i < keys)[None, :]
                k_e = k_t.to(ACC) * tl.exp(to_end(g, where, heads * keys, mask_l, 0, ACC))
                out += dot(k_e, state, DOT, ACC, PRECISION)
            else:
                out += dot(k_t, state, DOT, ACC, PRECISION)
    if GATES == 2:
        pairs = tl.load(scores + row[:, None] * BT + step[None, :], mask=mask_t[:, None], other=0.0)
    else:
        pairs = tl.where(causal, pairs * between(running(g, row, mask_t, GATES), causal, ACC), 0.0)
    if GATES == 1 and dstates is not None:
        out *= tl.exp(to_end(g, row, heads, t + 1 < last, 0, ACC))[:, None]
    do_t = tl.load(do + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
    out += dot(tl.trans(pairs), do_t, DOT, ACC, PRECISION)
    tl.store(dv + row[:, None] * values + j[None, :], out.to(dv.dtype.element_ty), mask=mask_v)


@triton.jit(do_not_specialize=RUNTIME)
def _queries_keys_backward(
    q, k, v, g, do, borders, dstates, dq, dk, dg, dw, du, rows, offsets, length, chunk, chunks, heads, keys, values,
    GATES: tl.constexpr, BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # With P_tj = D_tj (q_t . k_j) (do_t . v_j), the gradient of log decay t is the sum of all that crosses from before
    # step t to t or later: of P over rows from t on and columns before t, and of what S gives and S_end receives.
    # Nothing is subtracted. With dw, also dw_t = -S du_t, for writes that were reduced by S^T w_t.
    blocks = tl.cdiv(keys, BK)
    c, h, block = program(heads, blocks)
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    t = first + step
    mask_t = t < last
    row = t * heads + h
    i = block * BK + tl.arange(0, BK)
    mask_k = mask_t[:, None] & (i < keys)[None, :]
    where = row[:, None] * keys + i[None, :]
    causal = step[:, None] >= step[None, :]
    pairs = tl.zeros((BT, BT), ACC)
    dq_t = tl.zeros((BT, BK), ACC)
    dk_t = tl.zeros((BT, BK), ACC)
    dw_t = tl.zeros((BT, BK), ACC)
    through = tl.zeros((BK,), ACC)
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (j < values)[None, :]
        mask_s = (i < keys)[:, None] & (j < values)[None, :]
        tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
        v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        do_t = tl.load(do + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        state = tl.load(borders + tile, mask=mask_s, other=0.0)
        dstate = tl.load(dstates + tile, mask=mask_s, other=0.0)
        pairs += dot(do_t, tl.trans(v_t), DOT, ACC, PRECISION)
        dq_t += dot(do_t, tl.trans(state), DOT, ACC, PRECISION)
        dk_t += dot(v_t, tl.trans(dstate), DOT, ACC, PRECISION)
        if GATES == 1:
            through += tl.sum(state * dstate, 1)
        if dw is not None:
            du_t = tl.load(du + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
            dw_t -= dot(du_t, tl.trans(state), DOT, ACC, PRECISION)
    q_t = tl.load(q + where, mask=mask_k, other=0.0)
    k_t = tl.load(k + where, mask=mask_k, other=0.0)
    if GATES == 1:
        upto = running(g, row, mask_t, GATES)
        pairs = pairs * between(upto, causal, ACC)
        dq_t *= tl.exp(upto.to(ACC))[:, None]
        dk_t *= tl.exp(to_end(g, row, heads, t + 1 < last, 0, ACC))[:, None]
        crossing = crossing_sums(pairs * dot(q_t, tl.trans(k_t), DOT, ACC, PRECISION), step)
        given = tl.sum(q_t.to(ACC) * dq_t, 1)
        received = tl.sum(k_t.to(ACC) * dk_t, 1)
        crossing += tl.sum(tl.where(causal, given[:, None], 0.0), 0)
        crossing += tl.sum(tl.where(causal & (step[:, None] > step[None, :]), received[None, :], 0.0), 1)
        total = tl.sum(tl.load(g + row, mask=mask_t, other=0.0).to(ACC), 0)
        crossing += tl.exp(total) * tl.sum(through, 0)
        tl.store(dg + (block.to(tl.int64) * rows + t) * heads + h, crossing, mask=mask_t)
    else:
        pairs = tl.where(causal, pairs, 0.0)
    dq_t += dot(pairs, k_t, DOT, ACC, PRECISION)
    dk_t += dot(tl.trans(pairs), q_t, DOT, ACC, PRECISION)
    tl.store(dq + where, dq_t.to(dq.dtype.element_ty), mask=mask_k)
    tl.store(dk + where, dk_t.to(dk.dtype.element_ty), mask=mask_k)
    if dw is not None:
        tl.store(dw + where, dw_t.to(dw.dtype.element_ty), mask=mask_k)


@triton.jit
def crossing_sums(pairs, step):
    """For each t the sum of pairs (BT, BT) over rows from t on and columns before t."""
    before = tl.cumsum(pairs, 1) - pairs
    return tl.sum(tl.where(step[:, None] >= step[None, :], before, 0.0), 0)


def _constants(plan: Layout, gates: int, BT: int | None = None) -> dict[str, Any]:
    warps = 4 if plan.BK * plan.BV <= 4096 else 8
    return plan.options | {"GATES": gates, "BK": plan.BK, "BV": plan.BV, "num_warps": warps, "num_stages": 2}


def states(
    plan: Layout, gates: int, k: Tensor, v: Tensor, g: Tensor, initial: Tensor, borders: Tensor, final: Tensor
) -> None:
    """Write the states before chunks into `borders` (C, H, K, V), and those at the ends into `final` (S, H, K, V)."""
    programs = plan.relay.number * plan.heads * plan.key_blocks * plan.value_blocks
    arguments = (k, v, g, initial, borders, final, *plan.chunks.arguments, *plan.relay.arguments, *plan.sizes)
    launch(_states, programs, *arguments, **_constants(plan, gates))


def states_backward(
    plan: Layout, gates: int, q: Tensor, do: Tensor, g: Tensor, dfinal: Tensor, dstates: Tensor, dinitial: Tensor
) -> None:
    """Write the gradients of the states after chunks into `dstates`, those of the initial ones into `dinitial`."""
    programs = plan.relay.number * plan.heads * plan.key_blocks * plan.value_blocks
    arguments = (q, do, g, dfinal, dstates, dinitial, *plan.chunks.arguments, *plan.relay.arguments, *plan.sizes)
    launch(_states_backward, programs, *arguments, **_constants(plan, gates))


def output(
    plan: Layout, gates: int, q: Tensor, k: Tensor, v: Tensor, g: Tensor, scores: Tensor | None, borders: Tensor,
    o: Tensor,
) -> None:  # fmt: skip
    """Write o (L, H, V)."""
    programs = plan.chunks.number * plan.heads * plan.value_blocks
    arguments = (q, k, v, g, scores, borders, o, *plan.chunks.arguments, *plan.sizes)
    launch(_output, programs, *arguments, **_constants(plan, gates))


def values_backward(
    plan: Layout, gates: int, q: Tensor, k: Tensor, do: Tensor, g: Tensor, scores: Tensor | None,
    dstates: Tensor | None, dv: Tensor,
) -> None:  # fmt: skip
    """Write dv (L, H, V); without `dstates` only what reaches it inside a chunk."""
    programs = plan.chunks.number * plan.heads * plan.value_blocks
    arguments = (q, k, do, g, scores, dstates, dv, *plan.chunks.arguments, *plan.sizes)
    launch(_values_backward, programs, *arguments, **_constants(plan, gates))


def queries_keys_backward(
    plan: Layout, gates: int, q: Tensor, k: Tensor, v: Tensor, g: Tensor, do: Tensor, borders: Tensor,
    dstates: Tensor, dw: Tensor | None = None, du: Tensor | None = None, exact: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """dq, dk and dlog_g, not for GATES 2; dw too where it is given. `exact`: dk and dlog_g in the type of the state."""
    rows = q.shape[0] * q.shape[1]
    dq, dk = fresh(q), torch.empty_like(k, dtype=borders.dtype) if exact else fresh(k)
    parts = fresh(borders, plan.key_blocks, *g.shape)
    arguments = (q, k, v, g, do, borders, dstates, dq, dk, parts, dw, du, rows, *plan.chunks.arguments, *plan.sizes)
    launch(_queries_keys_backward, plan.chunks.number * plan.heads * plan.key_blocks, *arguments,
           **_constants(plan, gates))  # fmt: skip
    dg = parts.sum(0)
    return dq, dk, dg if exact else dg.to(g.dtype)
