"""Gated linear attention on a CPU: calls of the kernels.

There the recurrence is its own best form: with chunks of 64 the matrix form needs as many multiplications for
K = V = 64 and gains nothing by them, and it cannot take decays per channel without splitting the chunk again.
"""

from functools import partial

from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels.gated_linear_attention import cpu_kernels as kernels
from seqmix.kernels.gated_linear_attention.cpu_kernels import CHUNK

OP = "gated_linear_attention"

SHARED = 2  # q and k may be one head's, as those of Mamba-2 are: no copies for every head

border_shape = partial(_borders.border_shape, CHUNK)


def forward(
    q: Tensor, k: Tensor, v: Tensor, log_g: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), the final state (S, H, K, V) and the borders in one row; all of one type."""
    inputs = (q, k, v, log_g.exp())
    return _borders.walk_heads(kernels.forward, OP, CHUNK, 5, inputs, initial_state, cu_seqlens, SHARED)


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, log_g: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, log_g and the initial state.

    With Z_t = q_t do_t^T + e^{g_{t+1}} Z_{t+1}: dq_t = S_t do_t, dk_t = Z_t v_t, dv_t = Z_t^T k_t, and
    dg_t = e^{g_t} times the row sums of Z_t S_{t-1}. The shorter q dq - k dk, summed back over time, cancels.
    """
    inputs = (q, k, v, log_g.exp())
    given = (do, dfinal), inputs, initial_state, borders, cu_seqlens
    found = _borders.walk_heads_back(kernels.backward, OP, CHUNK, 16, *given, SHARED)
    (*gradients, ddecay), dinitial = found
    return *gradients, ddecay.mul_(inputs[-1]), dinitial
