"""Triton kernels for the delta rule: linear attention in chunks, whose values are what each step writes.

Forward: the triangular system of every chunk is solved, one kernel walks the chunks of a head and turns what it yields
into writes while it carries the state, and linear attention's own kernel gives the output. The backward pass solves the
systems again and takes the writes of all chunks at once from the states that were kept.
"""

from functools import partial
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels import _triton_chunks as chunks
from seqmix.kernels import _triton_outputs as outputs
from seqmix.kernels._triton import fresh, launch
from seqmix.kernels._triton_chunks import Layout, layout
from seqmix.kernels._triton_states import reads
from seqmix.kernels.delta_rule import triton_writes as kernels

OP = "delta_rule"
# Chunks of 64 would halve the states that are kept, but products with a 64 x 64 inverse were compiled wrongly for
# Hopper by Triton 3.4 and later (flash-linear-attention #984); 32 are not affected, and twice as fast to solve.
CHUNK = 32


border_shape = partial(chunks.border_shape, CHUNK)


def _options(plan: Layout, gates: int) -> dict[str, Any]:
    return plan.options | {"GATES": gates, "BK": plan.BK, "BV": plan.BV, "num_warps": 4, "num_stages": 2}


def _solve(plan: Layout, gates: int) -> dict[str, Any]:
    exact = plan.options["PRECISION"] == "ieee"
    solve = tl.float64 if exact else tl.float32
    return _options(plan, gates) | {"SOLVE": solve, "TIMES": solve if exact else plan.options["DOT"]}


def _walk(plan: Layout, gates: int) -> dict[str, Any]:
    """Options of the kernels that carry a state: all keys, and so many values that it stays in registers."""
    BK = max(16, triton.next_power_of_2(plan.keys))
    BV = max(16, min(plan.BV, 8192 // BK))
    return _options(plan, gates) | {"BK": BK, "BV": BV, "num_warps": 4 if BK * BV <= 4096 else 8}


def _prepared(
    plan: Layout, gates: int, k: Tensor, v: Tensor, beta: Tensor, g: Tensor, state: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """R (L, H, BT), w (L, H, K) and R (beta v) (L, H, V), the last two in the type that is multiplied."""
    kind = v.dtype if k.dtype == v.dtype == torch.bfloat16 else state.dtype
    options = _solve(plan, gates)
    wide = torch.float64 if options["SOLVE"] == tl.float64 else torch.float32
    inverse = torch.empty(*k.shape[:3], plan.options["BT"], dtype=wide, device=k.device)
    w, u = torch.empty_like(k, dtype=kind), torch.empty_like(v, dtype=kind)
    arguments = (k, v, beta, g, inverse, w, u, *plan.chunks.arguments, *plan.sizes)
    launch(kernels.prepare, plan.chunks.number * plan.heads, *arguments, **options)
    return inverse, w, u


def forward(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """o (B, T, H, V) in the type of v, the final state (S, H, K, V) and the states before chunks (slots, H, K, V)."""
    plan, gates = layout(OP, q, k, v, cu_seqlens, CHUNK), log_g.shape[3]
    q, k, v, beta, log_g, initial_state = (t.detach().contiguous() for t in (q, k, v, beta, log_g, initial_state))
    o, final = fresh(v), fresh(initial_state)
    borders = fresh(initial_state, *border_shape(q.shape, len(initial_state), plan.sizes))
    borders[plan.chunks.number :] = 0
    _, w, u = _prepared(plan, gates, k, v, beta, log_g, initial_state)
    options = _walk(plan, gates)
    arguments = (k, w, u, log_g, initial_state, borders, final)
    programs = plan.relay.number * plan.heads * triton.cdiv(plan.values, options["BV"])
    launch(kernels.states, programs, *arguments, *plan.chunks.arguments, *plan.relay.arguments, *plan.sizes, **options)
    outputs.output(plan, gates, q, k, u, log_g, None, borders, o)
    return o, final, borders


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor, initial_state: Tensor,
    borders: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, beta, log_g and the initial state."""
    plan, gates = layout(OP, q, k, v, cu_seqlens, CHUNK), log_g.shape[3]
    do, dfinal, q, k, v, beta, log_g = (t.detach().contiguous() for t in (do, dfinal, q, k, v, beta, log_g))
    spans, walk = plan.chunks, _walk(plan, gates)
    inverse, w, u = _prepared(plan, gates, k, v, beta, log_g, borders)
    reads(plan, w, u, borders, minus=True)
    du = fresh(u)
    outputs.values_backward(plan, gates, q, k, do, log_g, None, None, du)
    dstates, dinitial = fresh(borders), fresh(initial_state)
    arguments: tuple[Any, ...] = (q, k, w, log_g, do, du, dfinal, dstates, dinitial)
    programs = plan.relay.number * plan.heads * triton.cdiv(plan.values, walk["BV"])
    launch(kernels.states_backward, programs, *arguments, *spans.arguments, *plan.relay.arguments, *plan.sizes, **walk)
    dw = fresh(w)
    dq, dk_states, dg = outputs.queries_keys_backward(
        plan, gates, q, k, u, log_g, do, borders, dstates, dw, du, exact=True
    )
    dk, dv, dbeta = fresh(k), fresh(v), fresh(beta)
    arguments = (k, v, beta, log_g, inverse, dw, du, dk_states, dk, dv, dbeta, dg)
    launch(kernels.prepare_backward, spans.number * plan.heads, *arguments, *spans.arguments, *plan.sizes,
           **_solve(plan, gates))  # fmt: skip
    return dq, dk, dv, dbeta, dg.to(log_g.dtype), dinitial
