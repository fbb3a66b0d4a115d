"""The delta rule on a CPU: calls of the kernels.

The matrix form of a chunk (the inverse of a triangular matrix, Yang et al. 2024, section 3) exists for the sake of
matrix units; on a CPU the recurrence costs as few multiplications, keeps their order, and has no inverse that could
lose digits.
"""

from functools import partial

from torch import Tensor

from seqmix.kernels import _borders
from seqmix.kernels.delta_rule import cpu_kernels as kernels
from seqmix.kernels.delta_rule.cpu_kernels import BLOCK

OP = "delta_rule"

border_shape = partial(_borders.border_shape, BLOCK)


def forward(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """o (B, T, H, V), the final state (S, H, K, V) and the borders in one row; all of one type."""
    inputs = (q, k, v, beta, log_g.exp())
    return _borders.walk_heads(kernels.forward, OP, BLOCK, 8, inputs, initial_state, cu_seqlens)


def backward(
    do: Tensor, dfinal: Tensor, q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor,
    initial_state: Tensor, borders: Tensor, cu_seqlens: Tensor | None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """Gradients of q, k, v, beta, log_g and the initial state; the adjoint of the recurrence, step by step."""
    inputs = (q, k, v, beta, log_g.exp())
    found = _borders.walk_heads_back(
        kernels.backward, OP, BLOCK, 24, (do, dfinal), inputs, initial_state, borders, cu_seqlens
    )
    return *found[0], found[1]
