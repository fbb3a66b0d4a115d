"""Triton kernels for the generalised delta rule: linear attention in chunks with two keys a step, k and a.

Forward: what q and b read of k and a inside every chunk (`_triton_keys`), the triangular system of every chunk, one
kernel that walks the chunks of a head and turns what it yields into reads while it carries the state, and linear
attention's own kernel for the output. The backward pass solves the systems again, takes the reads of all chunks at
once from the states that were kept, and is linear attention's own for each pair of what reads and what is read.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels import _triton_chunks as chunks
from seqmix.kernels import _triton_keys as keys
from seqmix.kernels import _triton_outputs as outputs
from seqmix.kernels._triton import fresh, launch
from seqmix.kernels._triton_chunks import Layout, layout
from seqmix.kernels._triton_states import reads
from seqmix.kernels.dplr_delta_rule import triton_reads as kernels

OP = "dplr_delta_rule"
CHUNK = 32  # as for the delta rule


border_shape = partial(chunks.border_shape, CHUNK)


def _options(plan: Layout) -> dict[str, Any]:
    return plan.options | {"BK": plan.BK, "BV": plan.BV, "num_warps": 4, "num_stages": 2}


def _solve(plan: Layout) -> dict[str, Any]:
    exact = plan.options["PRECISION"] == "ieee"
    solve = tl.float64 if exact else tl.float32
    return _options(plan) | {"SOLVE": solve, "TIMES": solve if exact else plan.options["DOT"]}


def _walk(plan: Layout) -> dict[str, Any]:
    """Options of the kernels that carry a state: all keys, and so many values that it stays in registers."""
    BK = max(16, triton.next_power_of_2(plan.keys))
    BV = max(16, min(plan.BV, 8192 // BK))
    return _options(plan) | {"BK": BK, "BV": BV, "num_warps": 4 if BK * BV <= 4096 else 8}


class _Chunks(NamedTuple):
    """What b reads in every chunk, as far as it is known without the states."""

    ahead: Tensor  # (B, T, H, K), b of the next step
    scores_ba: Tensor  # (B, T, H, BT): what `ahead` reads of a, and of k
    scores_bk: Tensor
    inverse: Tensor  # (B, T, H, BT)
    w: Tensor  # (B, T, H, K) and (B, T, H, V), in the type that is multiplied
    u: Tensor


def _ahead(b: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """b of the next step, and zero after a sequence's last: what is not finite there would be 0 * NaN before it."""
    ahead = torch.zeros_like(b)
    ahead[:, :-1] = b[:, 1:]
    if cu_seqlens is not None:
        ahead[0, cu_seqlens[1:].long() - 1] = 0
    return ahead


def _prepared(
    plan: Layout, k: Tensor, v: Tensor, a: Tensor, b: Tensor, g: Tensor, state: Tensor, cu_seqlens: Tensor | None
) -> _Chunks:
    kind = v.dtype if k.dtype == v.dtype == torch.bfloat16 else state.dtype
    options = _solve(plan)
    wide = torch.float64 if options["SOLVE"] == tl.float64 else torch.float32
    ahead = _ahead(b, cu_seqlens)  # the last row of a chunk gets a query that nobody asks for
    scores_ba, scores_bk = keys.scores(plan, ahead, a, g), keys.scores(plan, ahead, k, g)
    inverse = torch.empty(*k.shape[:3], plan.options["BT"], dtype=wide, device=k.device)
    w, u = torch.empty_like(k, dtype=kind), torch.empty_like(v, dtype=kind)
    arguments = (b, v, g, scores_ba, scores_bk, inverse, w, u, *plan.chunks.arguments, *plan.sizes)
    launch(kernels.prepare, plan.chunks.number * plan.heads, *arguments, **options)
    return _Chunks(ahead, scores_ba, scores_bk, inverse, w, u)


def forward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_w: Tensor, initial_state: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """o (B, T, H, V) in the type of v, the final state (S, H, K, V) and the states before chunks (slots, H, K, V)."""
    plan = layout(OP, q, k, v, cu_seqlens, CHUNK)
    q, k, v, a, b, g, initial_state = (t.detach().contiguous() for t in (q, k, v, a, b, log_w, initial_state))
    o, final = fresh(v), fresh(initial_state)
    borders = fresh(initial_state, *border_shape(q.shape, len(initial_state), plan.sizes))
    borders[plan.chunks.number :] = 0
    found = _prepared(plan, k, v, a, b, g, initial_state, cu_seqlens)
    options = _walk(plan)
    programs = plan.relay.number * plan.heads * triton.cdiv(plan.values, options["BV"])
    arguments = (k, v, a, found.w, found.u, g, initial_state, borders, final)
    launch(kernels.states, programs, *arguments, *plan.chunks.arguments, *plan.relay.arguments, *plan.sizes, **options)
    scores, more = keys.scores(plan, q, k, g), (keys.scores(plan, q, a, g), found.u)
    outputs.output(plan, 2, q, k, v, g, scores, borders, o, more)
    return o, final, borders


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_w: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, a, b, log_w and the initial state."""
    plan = layout(OP, q, k, v, cu_seqlens, CHUNK)
    do, dfinal, q, k, v, a, b, g = (t.detach().contiguous() for t in (do, dfinal, q, k, v, a, b, log_w))
    spans, options, walk, solve = plan.chunks, _options(plan), _walk(plan), _solve(plan)
    ahead, _, scores_bk, inverse, w, r = _prepared(plan, k, v, a, b, g, borders, cu_seqlens)
    programs = spans.number * plan.heads * plan.value_blocks
    reads(plan, w, r, borders, minus=False)

    # What reaches the reads, and through the systems what reaches the queries b and the values.
    dr, dwanted = fresh(r), fresh(r)
    outputs.values_backward(plan, 2, q, a, do, g, keys.scores(plan, q, a, g), None, dr)
    dstates, dinitial = fresh(borders), fresh(initial_state)
    walked = plan.relay.number * plan.heads * triton.cdiv(plan.values, walk["BV"])
    tensors: tuple[Tensor, ...] = (q, a, w, g, do, dr, dfinal, dstates, dinitial)
    launch(kernels.states_backward, walked, *tensors, *spans.arguments, *plan.relay.arguments, *plan.sizes, **walk)
    plain = {name: value for name, value in solve.items() if name not in ("BK", "DOT", "ACC")}
    launch(kernels.solve_backward, programs, inverse, dr, dwanted, *spans.arguments, plan.heads, plan.values, **plain)
    dv = fresh(v)
    outputs.values_backward(plan, 2, q, k, do, g, keys.scores(plan, q, k, g), dstates, dv, (scores_bk, dwanted))

    # Each of q and b with each of k and a: queries read the state before a chunk once, keys write the next one once.
    dq, dk, da, db = (fresh(t) for t in (q, k, a, b))
    exact = [torch.empty_like(q, dtype=borders.dtype) for _ in range(8)]
    pairs = (
        (q, k, v, do, borders, dstates), (q, a, r, do, None, dstates),
        (ahead, k, v, dwanted, borders, None), (ahead, a, r, dwanted, None, None),
    )  # fmt: skip
    sums = [
        keys.pairs_backward(plan, x, y, z, g, dx, before, after, exact[2 * n], exact[2 * n + 1])
        for n, (x, y, z, dx, before, after) in enumerate(pairs)
    ]
    torch.add(exact[0], exact[2], out=dq)
    torch.add(exact[1], exact[5], out=dk)
    torch.add(exact[3], exact[7], out=da)
    arguments = (inverse, dr, borders, exact[4], exact[6], db, *spans.arguments, *plan.sizes)
    plain = {name: value for name, value in options.items() if name not in ("DOT", "PRECISION")}
    launch(kernels.b_backward, spans.number * plan.heads * plan.key_blocks, *arguments, **plain)
    steps, received = (torch.stack(parts).sum(0) for parts in zip(*sums, strict=True))
    return dq, dk, dv, da, db, keys.decays_backward(plan, g, borders, dstates, steps, received), dinitial
