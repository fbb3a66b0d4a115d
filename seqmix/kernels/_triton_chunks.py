"""Chunks of a matrix state in Triton: how a call is cut, and what kernels do inside a chunk.

Gated linear attention and, with its writes as values, the delta rule.

In a chunk that starts from S, with G_t the sum of its log decays up to t and D_tj = e^{G_t - G_j} for j <= t,

    o_t = e^{G_t} S^T q_t + sum_j D_tj (q_t . k_j) v_j,     S_end = e^{G_end} S + sum_j e^{G_end - G_j} k_j v_j^T.

Every exponent is a sum of the decays between two steps, so nothing is divided by and strong decays underflow to zero
where they should. Sums are taken from the side where they stay short; where two running sums are subtracted they are
float64. `GATES` is 0 without decay, 1 for one of each head, 2 for one of each key; with 2 the scores D_tj (q_t . k_j)
come from memory. Letters: L rows of all sequences, C chunks, S sequences, H heads, K and V widths.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import INTERPRETED, Chunked, Spans, cut, lanes, span, whole_sequences

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


def border_shape(chunk: int, inputs: Sequence[int], sequences: int, state: Sequence[int]) -> tuple[int, ...]:
    """(slots, *state), room for the states before all chunks; never one, which `torch.compile` would treat apart."""
    return (inputs[0] * (inputs[1] // chunk) + sequences + 1, *state)


def constants(plan: Layout, gates: int) -> dict[str, Any]:
    """What every kernel over these chunks is compiled for."""
    warps = 4 if plan.BK * plan.BV <= 4096 else 8
    return plan.options | {"GATES": gates, "BK": plan.BK, "BV": plan.BV, "num_warps": warps, "num_stages": 2}


@triton.jit
def dot(b_a, b_b, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr):
    return tl.dot(b_a.to(DOT), b_b.to(DOT), input_precision=PRECISION, out_dtype=ACC)  # (m, n)


@triton.jit
def running(p_g, o_row, mask, GATES: tl.constexpr):
    """Sums of log decays up to each step of a chunk, in float64: differences of them follow."""
    if GATES == 1:
        b_g = tl.load(p_g + o_row, mask=mask, other=0.0).to(tl.float64)  # (BT,)
        b_g = tl.where(b_g < -1e4, -1e4, b_g)  # e^-inf: infinities have no difference
    else:
        b_g = tl.zeros(o_row.shape, tl.float64)
    return tl.cumsum(b_g, 0)


@triton.jit
def between(upto, causal, ACC: tl.constexpr):
    """D (BT, BT): the decay from step j to step t, zero where not `causal`."""
    exponent = tl.where(causal, upto[:, None] - upto[None, :], 0.0).to(ACC)
    return tl.where(causal, tl.exp(exponent), 0.0)


@triton.jit
def to_end(p_g, o_where, stride, mask, axis: tl.constexpr, ACC: tl.constexpr):
    """Sums of log decays after each step of a chunk; `mask` is where there is a next step, `stride` elements on."""
    return tl.cumsum(tl.load(p_g + o_where + stride, mask=mask, other=0.0).to(ACC), axis, reverse=True)  # as o_where


@triton.jit
def program(heads, blocks):
    i_program = tl.program_id(0)
    return (i_program // (heads * blocks)).to(tl.int64), (i_program // blocks) % heads, i_program % blocks


@triton.jit
def steps_of(i_c, i_h, heads, p_offsets, length, chunk, chunks, BT: tl.constexpr):
    """The steps of a chunk (BT,), their rows of (L, H), and which of them there are."""
    first, last = span(i_c, p_offsets, length, chunk, chunks)
    o_step = tl.arange(0, BT)
    return o_step, (first + o_step) * heads + i_h, first + o_step < last
