"""What every recurrent op does before its kernel: check the arguments together, fill in the state, choose types."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._backend import choose_backend


class Prepared(NamedTuple):
    backend: str  # "reference", "cpu" or "triton"
    tensors: tuple[Any, ...]  # in the type of the state, but for Triton, which loads low precision itself; None stays
    initial_state: Tensor  # (S, ...), zeros where none was given


def prepare(
    op: str,
    package: str,
    tensors: Mapping[str, Tensor | None],
    values: str,
    state_dims: str,
    state_shape: tuple[int, ...],
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str | None,
    *,
    complex_ok: bool = False,
    window: bool = False,
) -> Prepared:
    """Check a call and make it ready.

    Args:
        op: its public name, for messages.
        package: its folder, as `__package__`.
        tensors: inputs by name, None for what was not given; ranks and shapes are already checked.
        values: the name of the one (B, T, ...) that all others are measured by.
        state_dims: letters of the state's axes, S first; `state_shape` is without S.
        window: the state holds inputs, in their type, where Triton takes it.

    Raises:
        ValueError: T = 0, a device or type that does not fit, a state or offsets that do not fit.
    """
    anchor = tensors[values]
    assert anchor is not None
    batch, length = anchor.shape[:2]
    checks.check_time(op, length)
    checks.check_cu_seqlens(op, cu_seqlens, batch, anchor.device)
    shape = (checks.n_sequences(batch, cu_seqlens), *state_shape)
    if initial_state is not None:
        checks.check_tensor(op, "initial_state", initial_state, state_dims, complex_ok=complex_ok)
        checks.check_shape(op, "initial_state", initial_state, shape, state_dims.replace(" ", ", "))
    checks.check_together(op, values, **tensors, initial_state=initial_state)

    chosen = choose_backend(op, package, backend, *tensors.values(), initial_state)
    given = [t for t in (*tensors.values(), initial_state) if t is not None]
    compute = checks.state_dtype(*given)
    if chosen == "triton":
        kept = anchor.dtype if initial_state is None else initial_state.dtype
        return Prepared(
            chosen, tuple(tensors.values()), _state(anchor, shape, initial_state, kept if window else compute)
        )
    cast = tuple(None if t is None else t.to(compute) for t in tensors.values())
    return Prepared(chosen, cast, _state(anchor, shape, initial_state, compute))


def _state(like: Tensor, shape: tuple[int, ...], given: Tensor | None, dtype: torch.dtype) -> Tensor:
    return like.new_zeros(shape, dtype=dtype) if given is None else given.to(dtype)
