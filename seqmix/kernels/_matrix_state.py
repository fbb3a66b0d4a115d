"""What ops with a matrix state (K, V) for every head share: checks, plain torch or kernels, and their register."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._backend import in_chunks
from seqmix.kernels._chunked import matrix_recurrence
from seqmix.kernels._operator import Operator
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, with_borders
from seqmix.kernels._sequences import over_sequences

__all__ = ["check_heads", "matrix_op", "run"]


def check_heads(op: str, q: Tensor, k: Tensor, v: Tensor) -> None:
    """Raise `ValueError` unless q, k (B, T, H, K) and v (B, T, H, V) fit."""
    checks.check_tensor(op, "q", q, "B T H K")
    checks.check_tensor(op, "k", k, "B T H K")
    checks.check_tensor(op, "v", v, "B T H V")
    checks.check_shape(op, "k", k, q.shape, "as q")
    checks.check_shape(op, "v", v, (*q.shape[:3], v.shape[3]), "batch, time and heads of q")
    for name, tensor in (("q", q), ("v", v)):
        if 0 in tensor.shape[2:]:
            raise ValueError(f"{op}: {name} must hold at least one head of width 1, got shape {tuple(tensor.shape)}")


def run(
    op: str, package: str, reference: Callable[..., tuple[Tensor, Tensor]], kernels: Operator,
    tensors: Mapping[str, Tensor | None], initial_state: Tensor | None, cu_seqlens: Tensor | None, backend: str | None,
    form: Callable[..., tuple[Tensor, ...]] = lambda *tensors: tensors,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """o (B, T, H, V) in the type of v and the final state; `form` makes of all `tensors` what kernels take."""
    q, v = tensors["q"], tensors["v"]
    assert q is not None and v is not None
    shape = (*q.shape[2:], v.shape[3])
    backend, given, S0 = prepare(op, package, tensors, "v", "S H K V", shape, initial_state, cu_seqlens, backend)
    if backend == "reference":
        step = partial(matrix_recurrence, reference, chunked=in_chunks(package, v.device))
        o, final = over_sequences(op, step, tuple(t for t in given if t is not None), S0, cu_seqlens)
    else:
        o, final, _ = kernels(*form(*given), S0, cu_seqlens, backend)
    return o.to(v.dtype), final


def matrix_op(name: str, package: str, inputs: str, **options: Any) -> Operator:
    """The op of kernels that keep states between chunks; `inputs` are what `form` makes, without the state."""
    return recurrent_op_of_kernels(
        name,
        package,
        inputs=f"{inputs} initial_state",
        outputs="o final",
        extra="borders",
        fakes=with_borders(package, "v"),
        kept=f"{inputs} initial_state borders",
        in_place="initial_state",
        **options,
    )
