"""The generalised delta rule on a CPU: calls of the kernels.

As for the delta rule, the recurrence costs as few multiplications as its chunk form and keeps their order.
"""

from functools import partial

from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels.dplr_delta_rule import cpu_kernels as kernels
from seqmix.kernels.dplr_delta_rule.cpu_kernels import BLOCK

OP = "dplr_delta_rule"

border_shape = partial(_borders.border_shape, BLOCK)


def forward(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_w: Tensor, initial_state: Tensor,
    cu_seqlens: Tensor | None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """o (B, T, H, V), the final state (S, H, K, V) and the borders in one row; all of one type."""
    inputs = (q, k, v, a, b, log_w.exp())
    return _borders.walk_heads(kernels.forward, OP, BLOCK, 10, inputs, initial_state, cu_seqlens)


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_w: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, a, b, log_w and the initial state; the adjoint of the recurrence, step by step."""
    inputs = (q, k, v, a, b, log_w.exp())
    found = _borders.walk_heads_back(
        kernels.backward, OP, BLOCK, 30, (do, dfinal), inputs, initial_state, borders, cu_seqlens
    )
    (*gradients, ddecay), dinitial = found
    return *gradients, ddecay.mul_(inputs[-1]), dinitial
