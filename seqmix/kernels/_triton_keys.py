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
from seqmix.kernels._triton_chunks import RUNTIME, Layout, dot, program, to_end

SUB = 16


@triton.jit
def _after(g, t, mask_n, end, h, i, heads, keys, ACC: tl.constexpr):
    """Log decays from each step t (BC,) to the end of its sub-chunk, and of all of it."""
    where = (t * heads + h)[:, None] * keys + i[None, :]
    mask = mask_n & (i < keys)[None, :]
    whole = tl.sum(tl.load(g + where, mask=mask, other=0.0).to(ACC), 0)
    return to_end(g, where, heads * keys, mask & (t + 1 < end)[:, None], 0, ACC), whole


@triton.jit(do_not_specialize=RUNTIME)
def _scores(
    q, k, g, scores, offsets, length, chunk, chunks, heads, keys,
    BT: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c, h, sub = program(heads, BT // BC)
    first, last = span(c, offsets, length, chunk, chunks)
    lane = tl.arange(0, BC)
    t = first + sub * BC + lane
    mask_t = t < last
    row = t * heads + h
    # Within the sub-chunk (BC, BC): from the last key to the first, queries decay on the way.
    inside = tl.zeros((BC, BC), ACC)
    for start in range(0, keys, BK):
        i = start + tl.arange(0, BK)
        mask_k = mask_t[:, None] & (i < keys)[None, :]
        reach = tl.load(q + row[:, None] * keys + i[None, :], mask=mask_k, other=0.0).to(ACC)
        for n in range(0, BC):
            j = first + sub * BC + BC - 1 - n
            ok = i < tl.where(j < last, keys, 0)
            here = (j * heads + h) * keys + i
            k_j = tl.load(k + here, mask=ok, other=0.0).to(ACC)
            a_j = tl.exp(tl.load(g + here, mask=ok, other=0.0).to(ACC))
            score = tl.sum(reach * k_j[None, :], 1)
            pair = (t >= j)[:, None] & (t[None, :] == j)
            inside += tl.where(pair, score[:, None], 0.0)
            reach = tl.where((t >= j)[:, None], reach * a_j[None, :], reach)
    tl.store(scores + row[:, None] * BT + sub * BC + lane[None, :], inside, mask=mask_t[:, None])
    # With every sub-chunk before: decays up to the query, between the two, and after the key.
    for other in range(0, BT // BC):
        outside = tl.zeros((BC, BC), ACC)
        if other < sub:
            for start in range(0, keys, BK):
                i = start + tl.arange(0, BK)
                mask_k = mask_t[:, None] & (i < keys)[None, :]
                where = row[:, None] * keys + i[None, :]
                upto = tl.cumsum(tl.load(g + where, mask=mask_k, other=0.0).to(ACC), 0)
                q_t = tl.load(q + where, mask=mask_k, other=0.0).to(ACC) * tl.exp(upto)
                gap = tl.zeros((BK,), ACC)
                for n in range(other + 1, sub):
                    between = first + n * BC + lane
                    here = (between * heads + h)[:, None] * keys + i[None, :]
                    mask = (between < last)[:, None] & (i < keys)[None, :]
                    gap += tl.sum(tl.load(g + here, mask=mask, other=0.0).to(ACC), 0)
                s = first + other * BC + lane
                mask_s = (s < last)[:, None]
                after, _ = _after(g, s, mask_s, tl.minimum(first + (other + 1) * BC, last), h, i, heads, keys, ACC)
                k_s = tl.load(
                    k + (s * heads + h)[:, None] * keys + i[None, :], mask=mask_s & (i < keys)[None, :], other=0.0
                )
                k_s = k_s.to(ACC) * tl.exp(after + gap[None, :])
                outside += dot(q_t, tl.trans(k_s), DOT, ACC, PRECISION)
        if other != sub:
            tl.store(scores + row[:, None] * BT + other * BC + lane[None, :], outside, mask=mask_t[:, None])


@triton.jit(do_not_specialize=RUNTIME)
def _score_gradients(
    v, do, dscores, offsets, length, chunk, chunks, heads, values,
    BT: tl.constexpr, BV: tl.constexpr, DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c, h, _ = program(heads, 1)
    first, last = span(c, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    mask_t = first + step < last
    row = (first + step) * heads + h
    pairs = tl.zeros((BT, BT), ACC)
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (j < values)[None, :]
        v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        do_t = tl.load(do + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        pairs += dot(do_t, tl.trans(v_t), DOT, ACC, PRECISION)
    pairs = tl.where(step[:, None] >= step[None, :], pairs, 0.0)
    tl.store(dscores + row[:, None] * BT + step[None, :], pairs, mask=mask_t[:, None])


@triton.jit(do_not_specialize=RUNTIME)
def _queries_keys_backward(
    q, k, v, g, do, borders, dstates, dscores, dq, dk, steps, received, offsets, length, chunk, chunks,
    heads, keys, values,
    BT: tl.constexpr, BC: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
    DOT: tl.constexpr, ACC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    # dq and dk of one sub-chunk: from other chunks through the states, from the other sub-chunks, from inside.
    subs: tl.constexpr = BT // BC
    c, h, block = program(heads, tl.cdiv(keys, BK) * subs)
    sub = block % subs
    first, last = span(c, offsets, length, chunk, chunks)
    lane = tl.arange(0, BC)
    begin = first + sub * BC
    t = begin + lane
    mask_t = t < last
    row = t * heads + h
    i = (block // subs) * BK + tl.arange(0, BK)
    mask_k = mask_t[:, None] & (i < keys)[None, :]
    where = row[:, None] * keys + i[None, :]
    dq_t = tl.zeros((BC, BK), ACC)
    dk_t = tl.zeros((BC, BK), ACC)
    # Through the states before and after the chunk.
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        mask_v = mask_t[:, None] & (j < values)[None, :]
        mask_s = (i < keys)[:, None] & (j < values)[None, :]
        tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
        v_t = tl.load(v + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        do_t = tl.load(do + row[:, None] * values + j[None, :], mask=mask_v, other=0.0)
        if borders is not None:
            dq_t += dot(do_t, tl.trans(tl.load(borders + tile, mask=mask_s, other=0.0)), DOT, ACC, PRECISION)
        if dstates is not None:
            dk_t += dot(v_t, tl.trans(tl.load(dstates + tile, mask=mask_s, other=0.0)), DOT, ACC, PRECISION)
    # Backwards from here to the start of the chunk; `gap` is what lies between two sub-chunks.
    upto = tl.cumsum(tl.load(g + where, mask=mask_k, other=0.0).to(ACC), 0)
    after, _ = _after(g, t, mask_t[:, None], tl.minimum(begin + BC, last), h, i, heads, keys, ACC)
    gap = tl.zeros((BK,), ACC)
    near = tl.zeros((BC, BK), ACC)
    for n in range(0, sub):
        other = sub - 1 - n
        s = first + other * BC + lane
        mask_s = (s < last)[:, None]
        before, whole = _after(g, s, mask_s, tl.minimum(first + (other + 1) * BC, last), h, i, heads, keys, ACC)
        k_s = tl.load(k + (s * heads + h)[:, None] * keys + i[None, :], mask=mask_s & (i < keys)[None, :], other=0.0)
        pairs = tl.load(dscores + row[:, None] * BT + other * BC + lane[None, :], mask=mask_t[:, None], other=0.0)
        near += dot(pairs, k_s.to(ACC) * tl.exp(before + gap[None, :]), DOT, ACC, PRECISION)
        gap += whole
    dq_t = tl.exp(upto) * (dq_t * tl.exp(gap)[None, :] + near)
    # Onwards from here to the end of the chunk.
    gap = tl.zeros((BK,), ACC)
    near = tl.zeros((BC, BK), ACC)
    for other in range(sub + 1, subs):
        s = first + other * BC + lane
        mask_s = (s < last)[:, None] & (i < keys)[None, :]
        here = (s * heads + h)[:, None] * keys + i[None, :]
        g_s = tl.load(g + here, mask=mask_s, other=0.0).to(ACC)
        q_s = tl.load(q + here, mask=mask_s, other=0.0).to(ACC) * tl.exp(tl.cumsum(g_s, 0) + gap[None, :])
        pairs = tl.load(
            dscores + (s * heads + h)[:, None] * BT + sub * BC + lane[None, :], mask=(s < last)[:, None], other=0.0
        )
        near += dot(tl.trans(pairs), q_s, DOT, ACC, PRECISION)
        gap += tl.sum(g_s, 0)
    dk_t = dk_t * tl.exp(after + gap[None, :])
    q_t = tl.load(q + where, mask=mask_k, other=0.0).to(ACC)
    k_t = tl.load(k + where, mask=mask_k, other=0.0).to(ACC)
    tl.store(received + where, k_t * dk_t, mask=mask_k)
    dk_in = tl.exp(after) * near
    # Inside: `decay` is the one from step j to every later step. A step's own pair has none.
    decay = tl.full((BC, BK), 1.0, ACC)
    for n in range(0, BC):
        j = begin + BC - 1 - n
        ok = i < tl.where(j < last, keys, 0)
        here = (j * heads + h) * keys + i
        k_j = tl.load(k + here, mask=ok, other=0.0).to(ACC)
        a_j = tl.exp(tl.load(g + here, mask=ok, other=0.0).to(ACC))
        pair = tl.load(dscores + row * BT + (j - first), mask=mask_t & (t > j), other=0.0)
        dq_t += pair[:, None] * decay * k_j[None, :]
        own = tl.sum(pair[:, None] * decay * q_t, 0)
        dk_in += tl.where((t == j)[:, None], own[None, :], 0.0)
        decay = tl.where((t >= j)[:, None], decay * a_j[None, :], decay)
    # The sums that the decays' gradients are made of, and a step's own pair.
    tl.store(steps + where, q_t * dq_t - k_t * dk_in, mask=mask_k)
    own = tl.load(dscores + row * BT + sub * BC + lane, mask=mask_t, other=0.0)[:, None]
    tl.store(dq + where, (dq_t + own * k_t).to(dq.dtype.element_ty), mask=mask_k)
    tl.store(dk + where, (dk_t + dk_in + own * q_t).to(dk.dtype.element_ty), mask=mask_k)


@triton.jit(do_not_specialize=RUNTIME)
def _decays_backward(
    g, borders, dstates, steps, received, dg, offsets, length, chunk, chunks, heads, keys, values,
    BT: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, ACC: tl.constexpr,
):  # fmt: skip
    # What crosses step t: S to S_end, steps before t to S_end, and S or steps before t to steps from t on. The last are
    # q dq - k dk summed from t on, within the chunk; more than a chunk of it would cancel.
    c, h, block = program(heads, tl.cdiv(keys, BK))
    first, last = span(c, offsets, length, chunk, chunks)
    t = first + tl.arange(0, BT)
    i = block * BK + tl.arange(0, BK)
    mask_k = (t < last)[:, None] & (i < keys)[None, :]
    where = (t * heads + h)[:, None] * keys + i[None, :]
    through = tl.zeros((BK,), ACC)
    for start in range(0, values, BV):
        j = start + tl.arange(0, BV)
        mask_s = (i < keys)[:, None] & (j < values)[None, :]
        tile = (c * heads + h) * keys * values + i[:, None] * values + j[None, :]
        state = tl.load(borders + tile, mask=mask_s, other=0.0)
        through += tl.sum(state * tl.load(dstates + tile, mask=mask_s, other=0.0), 1)
    total = tl.sum(tl.load(g + where, mask=mask_k, other=0.0).to(ACC), 0)
    end = tl.load(received + where, mask=mask_k, other=0.0)
    crossing = tl.cumsum(tl.load(steps + where, mask=mask_k, other=0.0), 0, reverse=True)
    crossing += tl.cumsum(end, 0) - end + (tl.exp(total) * through)[None, :]
    tl.store(dg + where, crossing.to(dg.dtype.element_ty), mask=mask_k)


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
