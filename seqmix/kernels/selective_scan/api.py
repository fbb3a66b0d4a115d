"""`selective_scan`: the recurrence of Mamba (S6), its decay taken in (0, 1) or in (-1, 1)."""

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._handing import handed_on
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, with_borders
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.selective_scan import reference

OP = "selective_scan"


@handed_on
def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    signed: bool = False,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """s_t = e^{dt_t A} s_{t-1} + dt_t x_t B_t, y_t = s_t C_t + D x_t, with N states for every channel.

    No tensor of shape (B, T, D, N) is formed or kept: the backward pass recomputes the states between the few that
    the forward pass stores.

    Args:
        x: input (B, T, D).
        dt: step sizes (B, T, D), already positive (after softplus); may be float32 beside an x in bfloat16.
        A: rates (D, N), negative for a decay; may be float32 as well.
        B: input map (B, T, N).
        C: output map (B, T, N).
        D: direct path (D,), none if None.
        signed: the decay is 2 e^{dt A} - 1, in (-1, 1) for negative A, in place of e^{dt A}.
        initial_state: s_0 (S, D, N), zeros if None; S is B, or the number of packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; the size B must be 1.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        y (B, T, D) in the type of x, and the final state (S, D, N) in float32, double for double input.

    Raises:
        ValueError: a wrong rank, shape, type or device, T = 0, or offsets that are not valid.

    Source: Gu and Dao 2023 (2312.00752), algorithm 2, with B discretised as dt B; signed: Grazzi et al. 2024
    (2411.12537), section 4.

    Example:
        >>> import torch
        >>> from seqmix.kernels import selective_scan
        >>> one = torch.ones(1, 3, 1)
        >>> y, final = selective_scan(one, one, torch.tensor([[0.5]]).log(), one, one)
        >>> [round(value, 4) for value in y.flatten().tolist()]
        [1.0, 1.5, 1.75]
    """
    for name, tensor, dims in (("x", x, "B T D"), ("dt", dt, "B T D"), ("A", A, "D N")):
        checks.check_tensor(OP, name, tensor, dims)
    checks.check_tensor(OP, "B", B, "B T N")
    checks.check_tensor(OP, "C", C, "B T N")
    batch, length, channels = x.shape
    states = A.shape[1]
    checks.check_shape(OP, "dt", dt, x.shape, "as x")
    checks.check_shape(OP, "A", A, (channels, states), "channels of x, states")
    if A.numel() == 0:
        raise ValueError(f"{OP}: A must hold at least one channel and one state, got shape {tuple(A.shape)}")
    checks.check_shape(OP, "B", B, (batch, length, states), "batch and time of x, states of A")
    checks.check_shape(OP, "C", C, (batch, length, states), "batch and time of x, states of A")
    if D is not None:
        checks.check_tensor(OP, "D", D, "D")
        checks.check_shape(OP, "D", D, (channels,), "channels of x")
    if not isinstance(signed, bool):
        raise ValueError(f"{OP}: signed must be True or False, got {checks.describe(signed)}")
    given, result = {"x": x, "dt": dt, "A": A, "B": B, "C": C, "D": D}, x.dtype
    backend, (x, dt, A, B, C, D), s0 = prepare(
        OP, __package__, given, "x", "S D N", (channels, states), initial_state, cu_seqlens, backend
    )
    if backend == "reference":

        def recurrence(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
            return reference.selective_scan(x, dt, A, B, C, D, signed, initial_state=s)

        y, final = over_sequences(OP, recurrence, (x, dt, B, C), s0, cu_seqlens)
    else:
        D = x.new_zeros(channels) if D is None else D
        y, final, _ = _selective_scan(x, dt, A, B, C, D, s0, cu_seqlens, signed, backend)
    return y.to(result), final


_selective_scan = recurrent_op_of_kernels(
    OP,
    __package__,
    inputs="x dt A B C D initial_state",
    outputs="y final",
    extra="borders",
    fakes=with_borders(__package__, "x", transposed=True),
    kept="x dt A B C D initial_state borders",
    options="bool signed",
    in_place="initial_state",
)
