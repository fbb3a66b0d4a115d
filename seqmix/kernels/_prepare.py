"""What every recurrent op does before its kernel: check the arguments together, fill in the state, choose types."""

from typing import NamedTuple

from torch import Tensor

from seqmix.kernels import _checks as checks
from seqmix.kernels._backend import choose_backend


class Prepared(NamedTuple):
    backend: str  # "reference", "cpu" or "triton"
    tensors: tuple[Tensor, ...]  # in the type of the state, except for Triton, which loads low precision itself
    initial_state: Tensor  # (S, ...), zeros where none was given


def prepare(
    op: str,
    package: str,
    tensors: dict[str, Tensor],
    state_dims: str,
    state_shape: tuple[int, ...],
    initial_state: Tensor | None,
    cu_seqlens: Tensor | None,
    backend: str | None,
    *,
    complex_ok: bool = False,
) -> Prepared:
    """Check a call and make it ready.

    Args:
        op: its public name, for messages.
        package: its folder, as `__package__`.
        tensors: inputs by name, the values (B, T, ...) first; ranks and shapes are already checked.
        state_dims: letters of the state's axes, S first; `state_shape` is without S.

    Raises:
        ValueError: T = 0, a device or type that does not fit, a state or offsets that do not fit.
    """
    name, values = next(iter(tensors.items()))
    batch, length = values.shape[:2]
    checks.check_time(op, length)
    checks.check_cu_seqlens(op, cu_seqlens, batch, values.device)
    shape = (checks.n_sequences(batch, cu_seqlens), *state_shape)
    if initial_state is not None:
        checks.check_tensor(op, "initial_state", initial_state, state_dims, complex_ok=complex_ok)
        checks.check_shape(op, "initial_state", initial_state, shape, state_dims.replace(" ", ", "))
    checks.check_together(op, name, **tensors, initial_state=initial_state)

    chosen = choose_backend(op, package, backend, *tensors.values(), initial_state)
    given = [t for t in (*tensors.values(), initial_state) if t is not None]
    compute = checks.state_dtype(*given)
    state = values.new_zeros(shape, dtype=compute) if initial_state is None else initial_state.to(compute)
    cast = tuple(tensors.values()) if chosen == "triton" else tuple(t.to(compute) for t in tensors.values())
    return Prepared(chosen, cast, state)
