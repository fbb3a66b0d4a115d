"""`selective_scan`: the recurrence of Mamba (S6), its decay taken in (0, 1) or in (-1, 1)."""

import torch
from torch import Tensor

from seqmix.kernels import _checks as checks
from seqmix.kernels._backend import choose_backend, load_kernels
from seqmix.kernels._operator import operator
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.selective_scan import reference

OP = "selective_scan"


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
    checks.check_time(OP, length)
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
    checks.check_cu_seqlens(OP, cu_seqlens, batch, x.device)
    state_shape = (checks.n_sequences(batch, cu_seqlens), channels, states)
    if initial_state is not None:
        checks.check_tensor(OP, "initial_state", initial_state, "S D N")
        checks.check_shape(OP, "initial_state", initial_state, state_shape, "sequences, channels, states")
    checks.check_together(OP, "x", x=x, dt=dt, A=A, B=B, C=C, D=D, initial_state=initial_state)

    backend = choose_backend(OP, __package__, backend, x, dt, A, B, C, D, initial_state)
    compute, result = checks.state_dtype(x), x.dtype
    s0 = x.new_zeros(state_shape, dtype=compute) if initial_state is None else initial_state.to(compute)
    if backend != "triton":
        x, dt, A, B, C = (t.to(compute) for t in (x, dt, A, B, C))
        D = None if D is None else D.to(compute)
    if backend == "reference":

        def recurrence(x: Tensor, dt: Tensor, B: Tensor, C: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
            return reference.selective_scan(x, dt, A, B, C, D, signed, initial_state=s)

        y, final = over_sequences(OP, recurrence, (x, dt, B, C), s0, cu_seqlens)
    else:
        D = x.new_zeros(channels) if D is None else D
        y, final, _ = _selective_scan(x, dt, A, B, C, D, s0, cu_seqlens, signed, backend)
    return y.to(result), final


@operator("selective_scan", OP)
def _selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    signed: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    kernels = load_kernels(__package__, backend)
    return kernels.forward(x, dt, A, B, C, D, initial_state, cu_seqlens, signed)


@operator("selective_scan_backward", OP)
def _selective_scan_backward(
    dy: Tensor,
    dfinal: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor,
    initial_state: Tensor,
    borders: Tensor,
    cu_seqlens: Tensor | None,
    signed: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    kernels = load_kernels(__package__, backend)
    return kernels.backward(dy, dfinal, x, dt, A, B, C, D, initial_state, borders, cu_seqlens, signed)


@_selective_scan.register_fake
def _(x, dt, A, B, C, D, initial_state, cu_seqlens, signed, backend):  # type: ignore[no-untyped-def]
    kernels = load_kernels(__package__, backend)
    slots = kernels.border_slots(x.shape[0], x.shape[1], initial_state.shape[0])
    return (
        torch.empty_like(x, memory_format=torch.contiguous_format),
        torch.empty_like(initial_state, memory_format=torch.contiguous_format),
        initial_state.new_empty(slots, A.shape[1], A.shape[0]),
    )


@_selective_scan_backward.register_fake
def _(dy, dfinal, x, dt, A, B, C, D, initial_state, borders, cu_seqlens, signed, backend):  # type: ignore[no-untyped-def]
    inputs = (x, dt, A, B, C, D, initial_state)
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, cu_seqlens, ctx.signed, ctx.backend = inputs
    ctx.save_for_backward(*tensors, output[2], cu_seqlens)


def _backward(ctx, dy, dfinal, _):  # type: ignore[no-untyped-def]
    grads = _selective_scan_backward(dy, dfinal, *ctx.saved_tensors, ctx.signed, ctx.backend)
    return *grads, None, None, None


_selective_scan.register_autograd(_backward, setup_context=_setup_context)
_selective_scan_backward.once()
