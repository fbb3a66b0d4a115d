"""Triton kernels for gated linear attention: chunks in matrix form, their states carried from one to the next.

Three kernels run forward: one walks the chunks of a head and keeps the state before each, one forms the scores of a
chunk where every key decays on its own (`_triton_keys`), one gives the output of all chunks at once. The backward pass
carries the state's gradient from the last chunk to the first and then takes all chunks at once again.
"""

from functools import partial

from torch import Tensor

from seqmix.kernels import _triton_chunks as chunks
from seqmix.kernels import _triton_keys as keys
from seqmix.kernels import _triton_outputs as outputs
from seqmix.kernels._triton import fresh
from seqmix.kernels._triton_chunks import layout
from seqmix.kernels._triton_states import states, states_backward

OP = "gated_linear_attention"
CHUNK = 64


border_shape = partial(chunks.border_shape, CHUNK)


def _gates(log_g: Tensor) -> int:
    # A single key's decay is the head's: the cheaper kernels do.
    return min(2, log_g.shape[3])


def forward(
    q: Tensor, k: Tensor, v: Tensor, log_g: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V) in the type of v, the final state (S, H, K, V) and the states before chunks (slots, H, K, V)."""
    plan, gates = layout(OP, q, k, v, cu_seqlens, CHUNK), _gates(log_g)
    q, k, v, log_g, initial_state = (t.detach().contiguous() for t in (q, k, v, log_g, initial_state))
    o, final = fresh(v), fresh(initial_state)
    borders = fresh(initial_state, *border_shape(q.shape, len(initial_state), plan.sizes))
    borders[plan.chunks.number :] = 0
    states(plan, gates, k, v, log_g, initial_state, borders, final)
    scores = keys.scores(plan, q, k, log_g) if gates == 2 else None
    outputs.output(plan, gates, q, k, v, log_g, scores, borders, o)
    return o, final, borders


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, log_g: Tensor, initial_state: Tensor, borders: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, log_g and the initial state; those of the states before chunks are carried first."""
    plan, gates = layout(OP, q, k, v, cu_seqlens, CHUNK), _gates(log_g)
    do, dfinal, q, k, v, log_g = (t.detach().contiguous() for t in (do, dfinal, q, k, v, log_g))
    dinitial, dv = fresh(initial_state), fresh(v)
    dstates = fresh(borders)
    states_backward(plan, gates, q, do, log_g, dfinal, dstates, dinitial)
    if gates == 2:
        scores = keys.scores(plan, q, k, log_g)
        outputs.values_backward(plan, gates, q, k, do, log_g, scores, dstates, dv)
        dq, dk = fresh(q), fresh(k)
        sums = keys.pairs_backward(plan, q, k, v, log_g, do, borders, dstates, dq, dk)
        return dq, dk, dv, keys.decays_backward(plan, log_g, borders, dstates, *sums), dinitial
    outputs.values_backward(plan, gates, q, k, do, log_g, None, dstates, dv)
    dq, dk, dlog_g = outputs.queries_keys_backward(plan, gates, q, k, v, log_g, do, borders, dstates)
    return dq, dk, dv, dlog_g, dinitial
