"""What scans of matrices and of lags share: a plain form, one with softmax gates, and one op for both."""

from collections.abc import Callable

from torch import Tensor

from seqmix.kernels._operator import Operator
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, same
from seqmix.kernels._sequences import over_sequences

__all__ = ["gated_op", "gated_scan"]


def gated_scan(
    op: str, package: str, reference: Callable[..., tuple[Tensor, Tensor]], kernels: Operator,
    tensors: dict[str, Tensor], state_dims: str, state_shape: tuple[int, ...],
    initial_state: Tensor | None, cu_seqlens: Tensor | None, backend: str | None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """h in the type of the values and the final state; `tensors` are matrices, lags or logits, and then values."""
    _, values = tensors
    result = tensors[values].dtype
    backend, (gates, x), h0 = prepare(
        op, package, tensors, values, state_dims, state_shape, initial_state, cu_seqlens, backend
    )
    if backend == "reference":
        h, final = over_sequences(op, reference, (gates, x), h0, cu_seqlens)
    else:
        h, final = kernels(gates, x, h0, cu_seqlens, op.startswith("gated_"), backend)
    return h.to(result), final


def gated_op(name: str, package: str) -> Operator:
    """Weights or logits `a`, with input or values `x`: torch need not know which."""
    return recurrent_op_of_kernels(
        name,
        package,
        owner=f"{name} and gated_{name}",
        inputs="a x initial_state",
        outputs="h final",
        fakes=same("x", "initial_state"),
        kept="a x h initial_state",
        gradients="a x initial_state",
        options="bool gated",
    )
