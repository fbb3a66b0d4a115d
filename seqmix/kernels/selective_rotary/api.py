"""`selective_rotary`: rotary positions whose angle grows by an amount that each token chooses."""

from typing import Any

import torch
from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._handing import handed_on
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, same
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.selective_rotary import reference

OP = "selective_rotary"


@handed_on
def selective_rotary(
    q: Tensor,
    k: Tensor,
    increment: Tensor,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Theta_t = Theta_{t-1} + omega_t; the pairs (x0, x1) = (x_i, x_{i+K/2}) of q_t and k_t become
    (x0 cos Theta_t - x1 sin Theta_t, x0 sin Theta_t + x1 cos Theta_t).

    Scores q_t . k_j then depend on the increments between j and t only. The running angle is summed in double
    precision modulo one turn, so it does not drift; temperature, gate and bias belong into the increments.

    Args:
        q, k: queries and keys (B, T, H, K), K even.
        increment: omega in radians (B, T, H, K/2); may be float32 beside low-precision q and k.
        initial_state: Theta_0 (S, H, K/2), zeros if None; S is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        (q, k), both turned, each in its own type, and the final angle (S, H, K/2) in [-pi, pi], float32 or, for
        double input, float64.

    Raises:
        ValueError: a wrong rank, shape, type or device, an odd K, T = 0, or offsets that are not valid.

    Source: Movahedi et al. 2025 (2511.17388), section 3; constant increments are RoPE (2104.09864).

    Example:
        >>> import torch
        >>> from seqmix.kernels import selective_rotary
        >>> x = torch.tensor([1.0, 0.0]).expand(1, 2, 1, 2)
        >>> (q, _), angle = selective_rotary(x, x, torch.full((1, 2, 1, 1), torch.pi / 4))
        >>> [round(value, 4) for value in q[0, 0, 0].tolist()], round(angle.item(), 4)
        ([0.7071, 0.7071], 1.5708)
    """
    checks.check_tensor(OP, "q", q, "B T H K")
    checks.check_tensor(OP, "k", k, "B T H K")
    checks.check_tensor(OP, "increment", increment, "B T H K/2")
    checks.check_shape(OP, "k", k, q.shape, "as q")
    heads, width = q.shape[2:]
    if heads == 0 or width == 0 or width % 2:
        raise ValueError(f"{OP}: q must hold at least one head of an even width K, got shape {tuple(q.shape)}")
    checks.check_shape(OP, "increment", increment, (*q.shape[:3], width // 2), "as q, one angle for each pair")
    types = q.dtype, k.dtype
    given = {"q": q, "k": k, "increment": increment}
    backend, (q, k, increment), theta = prepare(
        OP, __package__, given, "q", "S H K/2", (heads, width // 2), initial_state, cu_seqlens, backend
    )
    if backend == "reference":

        def recurrence(q: Tensor, k: Tensor, increment: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
            (q, k), theta = reference.selective_rotary(q, k, increment, initial_state=theta)
            return torch.stack((q, k), dim=-1), theta

        both, final = over_sequences(OP, recurrence, (q, k, increment), theta, cu_seqlens)
        # Copies: views of one tensor would be outputs that alias each other.
        q, k = (part.contiguous() for part in both.unbind(-1))
    else:
        q, k, final, _ = _selective_rotary(q, k, increment, theta, cu_seqlens, backend)
    return (q.to(types[0]), k.to(types[1])), final


def _fakes(given: dict[str, Any]) -> list[Tensor]:
    outputs = same("q", "k", "initial_state")(given)
    return [*outputs, torch.empty_like(outputs[2], dtype=torch.float64)]


# The final angle in double precision is all that is kept: the backward pass walks back from it.
_selective_rotary = recurrent_op_of_kernels(
    OP,
    __package__,
    inputs="q k increment initial_state",
    outputs="turned_q turned_k final",
    extra="last",
    fakes=_fakes,
    kept="q k increment last",
    gradients="q k increment dfinal",
)
