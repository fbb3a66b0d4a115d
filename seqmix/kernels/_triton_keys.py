"""What chunks need where every key has a decay of its own: scores, and the gradients of q, k and g.

The decay between two steps is then inside the sum over keys, so that a chunk is cut into sub-chunks of 16 steps. For
two of them, what lies between them is split at the start of the later one: q_t e^{from there to t} meets
k_j e^{from j to there}, both of them decays, in one product. Inside a sub-chunk the decay from j to t is multiplied up
step by step, as the recurrence would.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import fresh, launch, span
from seqmix.kernels._triton_chunks import RUNTIME, Layout, dot, program, steps_of, to_end

SUB = 16


@triton.jit
def _after(p_g, o_t, mask_n, end, i_h, o_k, heads, keys, ACC: tl.constexpr):
    """Log decays from each step t (BC,) to the end of its sub-chunk, and of all of it."""
    o_where = (o_t * heads + i_h)[:, None] * keys + o_k[None, :]
    mask = mask_n & (o_k < keys)[None, :]
    whole = tl.sum(tl.load(p_g + o_where, mask=mask, other=0.0).to(ACC), 0)  # (BC, BK)
    return to_end(p_g, o_where, heads * keys, mask & (o_t + 1 < end)[:, None], 0, ACC), whole


@triton.jit(do_not_specialize=RUNTIME)
def _scores(
    p_q, p_k, p_g, p_scores, p_offsets, length, chunk, chunks, heads, keys,
    BT: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_c, i_h, i_sub = program(heads, BT // BC)
    first, last = span(i_c, p_offsets, length, chunk, chunks)
    o_lane = tl.arange(0, BC)
    o_t = first + i_sub * BC + o_lane
    mask_t = o_t < last
    o_row = o_t * heads + i_h
    # Within the sub-chunk (BC, BC): from the last key to the first, queries decay on the way.
    b_inside = tl.zeros((BC, BC), ACC)
    for start in range(0, keys, BK):
        o_k = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (o_k < keys)[None, :]
        b_reach = tl.load(p_q + o_row[:, None] * keys + o_k[None, :], mask=mask_k, other=0.0).to(ACC)  # (BC, BK)
        for n in range(0, BC):
            j = first + i_sub * BC + BC - 1 - n
            ok = o_k < tl.where(j < last, keys, 0)
            o_here = (j * heads + i_h) * keys + o_k
            b_k_j = tl.load(p_k + o_here, mask=ok, other=0.0).to(ACC)  # (BK,)
            b_a_j = tl.exp(tl.load(p_g + o_here, mask=ok, other=0.0).to(ACC))  # (BK,)
            score = tl.sum(b_reach * b_k_j[None, :], 1)
            pair = (o_t >= j)[:, None] & (o_t[None, :] == j)
            b_inside += tl.where(pair, score[:, None], 0.0)
            b_reach = tl.where((o_t >= j)[:, None], b_reach * b_a_j[None, :], b_reach)
    tl.store(p_scores + o_row[:, None] * BT + i_sub * BC + o_lane[None, :], b_inside, mask=mask_t[:, None])
    # With every sub-chunk before: decays up to the query, between the two, and after the key.
    for other in range(0, BT // BC):
        b_outside = tl.zeros((BC, BC), ACC)
        # Keys (BC, BK) of the other sub-chunk as they are at the start of this one.
        if other < i_sub:
            for start in range(0, keys, BK):
                o_k = start + tl.arange(0, BK)
                mask_k = mask_t[:, None] & (o_k < keys)[None, :]
                o_where = o_row[:, None] * keys + o_k[None, :]
                upto = tl.cumsum(tl.load(p_g + o_where, mask=mask_k, other=0.0).to(ACC), 0)  # (BC, BK)
                b_q = tl.load(p_q + o_where, mask=mask_k, other=0.0).to(ACC) * tl.exp(upto)  # (BC, BK)
                gap = tl.zeros((BK,), ACC)
                for n in range(other + 1, i_sub):
                    o_between = first + n * BC + o_lane
                    o_here = (o_between * heads + i_h)[:, None] * keys + o_k[None, :]
                    mask = (o_between < last)[:, None] & (o_k < keys)[None, :]
                    gap += tl.sum(tl.load(p_g + o_here, mask=mask, other=0.0).to(ACC), 0)  # (BC, BK)
                o_s = first + other * BC + o_lane
                mask_s = (o_s < last)[:, None]
                after, _ = _after(
                    p_g, o_s, mask_s, tl.minimum(first + (other + 1) * BC, last), i_h, o_k, heads, keys, ACC
                )
                b_k_s = tl.load(
                    p_k + (o_s * heads + i_h)[:, None] * keys + o_k[None, :],
                    mask=mask_s & (o_k < keys)[None, :],
                    other=0.0,
                )  # (BC, BK)
                b_k_s = b_k_s.to(ACC) * tl.exp(after + gap[None, :])
                b_outside += dot(b_q, tl.trans(b_k_s), DOT, ACC, PRECISION)  # (BC, BC)
        if other != i_sub:
            tl.store(p_scores + o_row[:, None] * BT + other * BC + o_lane[None, :], b_outside, mask=mask_t[:, None])


@triton.jit(do_not_specialize=RUNTIME)
def _score_gradients(
    p_v, p_do, p_dscores, p_offsets, length, chunk, chunks, heads, values,
    BT: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    i_c, i_h, _ = program(heads, 1)
    o_step, o_row, mask_t = steps_of(i_c, i_h, heads, p_offsets, length, chunk, chunks, BT)
    b_pairs = tl.zeros((BT, BT), ACC)
    for start in range(0, values, BV):
        o_v = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        b_v = tl.load(p_v + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        b_do = tl.load(p_do + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BT, BV)
        b_pairs += dot(b_do, tl.trans(b_v), DOT, ACC, PRECISION)  # (BT, BT)
    b_pairs = tl.where(o_step[:, None] >= o_step[None, :], b_pairs, 0.0)
    tl.store(p_dscores + o_row[:, None] * BT + o_step[None, :], b_pairs, mask=mask_t[:, None])


@triton.jit(do_not_specialize=RUNTIME)
def _queries_keys_backward(
    p_q, p_k, p_v, p_g, p_do, p_borders, p_dstates, p_dscores, p_dq, p_dk, p_steps, p_received,
    p_offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    # dq and dk of one sub-chunk: from other chunks through the states, from the other sub-chunks, from inside.
    subs: tl.constexpr = BT // BC
    i_c, i_h, i_block = program(heads, tl.cdiv(keys, BK) * subs)
    i_sub = i_block % subs
    first, last = span(i_c, p_offsets, length, chunk, chunks)
    o_lane = tl.arange(0, BC)
    begin = first + i_sub * BC
    o_t = begin + o_lane
    mask_t = o_t < last
    o_row = o_t * heads + i_h
    o_k = (i_block // subs) * BK + tl.arange(0, BK)
    mask_k = mask_t[:, None] & (o_k < keys)[None, :]
    o_where = o_row[:, None] * keys + o_k[None, :]
    b_dq = tl.zeros((BC, BK), ACC)
    b_dk = tl.zeros((BC, BK), ACC)
    # Through the states before and after the chunk.
    for start in range(0, values, BV):
        o_v = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (o_v < values)[None, :]
        mask_s = (o_k < keys)[:, None] & (o_v < values)[None, :]
        o_tile = (i_c * heads + i_h) * keys * values + o_k[:, None] * values + o_v[None, :]
        b_v = tl.load(p_v + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BC, BV)
        b_do = tl.load(p_do + o_row[:, None] * values + o_v[None, :], mask=mask_v, other=0.0)  # (BC, BV)
        if p_borders is not None:
            # (BC, BK), (BK, BV)
            b_dq += dot(b_do, tl.trans(tl.load(p_borders + o_tile, mask=mask_s, other=0.0)), DOT, ACC, PRECISION)
        if p_dstates is not None:
            # (BC, BK), (BK, BV)
            b_dk += dot(b_v, tl.trans(tl.load(p_dstates + o_tile, mask=mask_s, other=0.0)), DOT, ACC, PRECISION)
    # Backwards from here to the start of the chunk; `gap` is what lies between two sub-chunks.
    upto = tl.cumsum(tl.load(p_g + o_where, mask=mask_k, other=0.0).to(ACC), 0)  # (BC, BK)
    after, _ = _after(p_g, o_t, mask_t[:, None], tl.minimum(begin + BC, last), i_h, o_k, heads, keys, ACC)
    gap = tl.zeros((BK,), ACC)
    near = tl.zeros((BC, BK), ACC)
    for n in range(0, i_sub):
        other = i_sub - 1 - n
        o_s = first + other * BC + o_lane
        mask_s = (o_s < last)[:, None]
        before, whole = _after(p_g, o_s, mask_s, tl.minimum(first + (other + 1) * BC, last), i_h, o_k, heads, keys, ACC)
        b_k_s = tl.load(
            p_k + (o_s * heads + i_h)[:, None] * keys + o_k[None, :], mask=mask_s & (o_k < keys)[None, :], other=0.0
        )  # (BC, BK)
        b_pairs = tl.load(
            p_dscores + o_row[:, None] * BT + other * BC + o_lane[None, :], mask=mask_t[:, None], other=0.0
        )  # (BC, BC)
        near += dot(b_pairs, b_k_s.to(ACC) * tl.exp(before + gap[None, :]), DOT, ACC, PRECISION)  # (BC, BK)
        gap += whole
    b_dq = tl.exp(upto) * (b_dq * tl.exp(gap)[None, :] + near)
    # Onwards from here to the end of the chunk.
    gap = tl.zeros((BK,), ACC)
    near = tl.zeros((BC, BK), ACC)
    for other in range(i_sub + 1, subs):
        o_s = first + other * BC + o_lane
        mask_s = (o_s < last)[:, None] & (o_k < keys)[None, :]
        o_here = (o_s * heads + i_h)[:, None] * keys + o_k[None, :]
        b_g_s = tl.load(p_g + o_here, mask=mask_s, other=0.0).to(ACC)  # (BC, BK)
        # (BC, BK)
        b_q_s = tl.load(p_q + o_here, mask=mask_s, other=0.0).to(ACC) * tl.exp(tl.cumsum(b_g_s, 0) + gap[None, :])
        b_pairs = tl.load(
            p_dscores + (o_s * heads + i_h)[:, None] * BT + i_sub * BC + o_lane[None, :],
            mask=(o_s < last)[:, None],
            other=0.0,
        )  # (BC, BC)
        near += dot(tl.trans(b_pairs), b_q_s, DOT, ACC, PRECISION)  # (BC, BK)
        gap += tl.sum(b_g_s, 0)
    b_dk = b_dk * tl.exp(after + gap[None, :])
    b_q = tl.load(p_q + o_where, mask=mask_k, other=0.0).to(ACC)  # (BC, BK)
    b_k = tl.load(p_k + o_where, mask=mask_k, other=0.0).to(ACC)  # (BC, BK)
    tl.store(p_received + o_where, b_k * b_dk, mask=mask_k)
    b_dk_in = tl.exp(after) * near
    # Inside: `decay` is the one from step j to every later step. A step's own pair has none.
    decay = tl.full((BC, BK), 1.0, ACC)
    for n in range(0, BC):
        o_v = begin + BC - 1 - n
        ok = o_k < tl.where(o_v < last, keys, 0)
        o_here = (o_v * heads + i_h) * keys + o_k
        b_k_j = tl.load(p_k + o_here, mask=ok, other=0.0).to(ACC)  # (BK,)
        b_a_j = tl.exp(tl.load(p_g + o_here, mask=ok, other=0.0).to(ACC))  # (BK,)
        b_pair = tl.load(p_dscores + o_row * BT + (o_v - first), mask=mask_t & (o_t > o_v), other=0.0)  # (BC,)
        b_dq += b_pair[:, None] * decay * b_k_j[None, :]
        b_own = tl.sum(b_pair[:, None] * decay * b_q, 0)
        b_dk_in += tl.where((o_t == o_v)[:, None], b_own[None, :], 0.0)
        decay = tl.where((o_t >= o_v)[:, None], decay * b_a_j[None, :], decay)
    # The sums that the decays' gradients are made of, and a step's own pair.
    tl.store(p_steps + o_where, b_q * b_dq - b_k * b_dk_in, mask=mask_k)
    b_own = tl.load(p_dscores + o_row * BT + i_sub * BC + o_lane, mask=mask_t, other=0.0)[:, None]  # (BC,)
    tl.store(p_dq + o_where, (b_dq + b_own * b_k).to(p_dq.dtype.element_ty), mask=mask_k)
    tl.store(p_dk + o_where, (b_dk + b_dk_in + b_own * b_q).to(p_dk.dtype.element_ty), mask=mask_k)


@triton.jit(do_not_specialize=RUNTIME)
def _decays_backward(
    p_g, p_borders, p_dstates, p_steps, p_received, p_dg, p_offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # What crosses step t: S to S_end, steps before t to S_end, and S or steps before t to steps from t on. The last are
    # q dq - k dk summed from t on, within the chunk; more than a chunk of it would cancel.
    i_c, i_h, i_block = program(heads, tl.cdiv(keys, BK))
    first, last = span(i_c, p_offsets, length, chunk, chunks)
    o_t = first + tl.arange(0, BT)
    o_k = i_block * BK + tl.arange(0, BK)
    mask_k = (o_t < last)[:, None] & (o_k < keys)[None, :]
    o_where = (o_t * heads + i_h)[:, None] * keys + o_k[None, :]
    through = tl.zeros((BK,), ACC)
    for start in range(0, values, BV):
        o_v = start + tl.arange(0, BV)
        mask_s = (o_k < keys)[:, None] & (o_v < values)[None, :]
        o_tile = (i_c * heads + i_h) * keys * values + o_k[:, None] * values + o_v[None, :]
        b_state = tl.load(p_borders + o_tile, mask=mask_s, other=0.0)  # (BK, BV)
        through += tl.sum(b_state * tl.load(p_dstates + o_tile, mask=mask_s, other=0.0), 1)  # (BK, BV)
    total = tl.sum(tl.load(p_g + o_where, mask=mask_k, other=0.0).to(ACC), 0)  # (BT, BK)
    b_end = tl.load(p_received + o_where, mask=mask_k, other=0.0)  # (BT, BK)
    b_crossing = tl.cumsum(tl.load(p_steps + o_where, mask=mask_k, other=0.0), 0, reverse=True)  # (BT, BK)
    b_crossing += tl.cumsum(b_end, 0) - b_end + (tl.exp(total) * through)[None, :]
    tl.store(p_dg + o_where, b_crossing.to(p_dg.dtype.element_ty), mask=mask_k)


def _options(plan: Layout) -> dict[str, object]:
    return plan.options | {"BC": SUB, "BK": plan.BK, "num_warps": 4, "num_stages": 2}


def scores(plan: Layout, q: Tensor, k: Tensor, g: Tensor) -> Tensor:
    """D_tj (q_t . k_j) for the steps of every chunk, (L, H, BT) with zeros above the diagonal."""
    BT = plan.options["BT"]
    double = q.dtype == torch.float64
    out = q.new_empty(*q.shape[:3], BT, dtype=torch.float64 if double else torch.float32)
    arguments = (q, k, g, out, *plan.chunks.arguments, plan.heads, plan.keys)
    launch(_scores, plan.chunks.number * plan.heads * (BT // SUB), *arguments, **_options(plan))
    return out


def pairs_backward(
    plan: Layout, q: Tensor, k: Tensor, v: Tensor, g: Tensor, do: Tensor, borders: Tensor | None,
    dstates: Tensor | None, dq: Tensor, dk: Tensor,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Write dq and dk of what queries read of keys; return the sums that the decays' gradients are made of.

    Without `borders` queries do not read the states before chunks, without `dstates` keys do not write those after.
    """
    BT, spans = plan.options["BT"], plan.chunks
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    steps, received = (torch.empty_like(q, dtype=kind) for _ in range(2))
    dscores = q.new_empty(*q.shape[:3], BT, dtype=kind)
    options = _options(plan) | {"BV": plan.BV}
    plain = {name: value for name, value in options.items() if name not in ("BC", "BK")}
    launch(_score_gradients, spans.number * plan.heads, v, do, dscores, *spans.arguments, plan.heads, plan.values,
           **plain)  # fmt: skip
    tensors = (q, k, v, g, do, borders, dstates, dscores, dq, dk, steps, received)
    programs = spans.number * plan.heads * plan.key_blocks * (BT // SUB)
    launch(_queries_keys_backward, programs, *tensors, *spans.arguments, *plan.sizes, **options)
    return steps, received


def decays_backward(
    plan: Layout, g: Tensor, borders: Tensor, dstates: Tensor, steps: Tensor, received: Tensor
) -> Tensor:
    """dlog_g from the states before chunks, the gradients of those after, and the sums over all pairs."""
    dg = fresh(g)
    options = {name: value for name, value in _options(plan).items() if name not in ("BC", "DOT", "PRECISION")}
    arguments = (g, borders, dstates, steps, received, dg, *plan.chunks.arguments, *plan.sizes)
    launch(_decays_backward, plan.chunks.number * plan.heads * plan.key_blocks, *arguments, BV=plan.BV, **options)
    return dg
