"""`causal_conv1d`: the short depthwise convolution in front of Mamba, DeltaNet and Selective RoPE."""

import torch
from torch import Tensor

from seqmix.kernels import _checks as checks
from seqmix.kernels._backend import choose_backend, load_kernels
from seqmix.kernels._operator import operator
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.causal_conv1d import reference

OP = "causal_conv1d"


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    *,
    initial_state: Tensor | None = None,
    cu_seqlens: Tensor | None = None,
    backend: str | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = activation(bias + sum_{i < W} weight_i x_{t-W+1+i}), for every channel on its own.

    Args:
        x: input (B, T, D).
        weight: taps (D, W), oldest input first, the last one for x_t itself.
        bias: (D,), none if None.
        activation: None or `"silu"`.
        initial_state: the W - 1 inputs before x (S, W - 1, D), oldest first, zeros if None; S is B, or the number of
            packed sequences.
        cu_seqlens: int32 offsets (S + 1,) of sequences packed along T; B must be 1. No window crosses a boundary.
        backend: None (by device), `"reference"`, `"cpu"` or `"triton"`.

    Returns:
        y (B, T, D) and the last W - 1 inputs (S, W - 1, D), which reach back into `initial_state` where a sequence is
        shorter than that; both in the type of x.

    Raises:
        ValueError: a wrong rank, shape, type, device or activation, T = 0, or offsets that are not valid.

    Source: Gu and Dao 2023 (2312.00752), section 3.4.

    Example:
        >>> import torch
        >>> from seqmix.kernels import causal_conv1d
        >>> y, window = causal_conv1d(torch.arange(4.0).view(1, 4, 1), torch.tensor([[1.0, 10.0]]))
        >>> y.flatten().tolist(), window.flatten().tolist()
        ([0.0, 10.0, 21.0, 32.0], [3.0])
    """
    checks.check_tensor(OP, "x", x, "B T D")
    checks.check_tensor(OP, "weight", weight, "D W")
    batch, length, channels = x.shape
    width = weight.shape[1]
    checks.check_time(OP, length)
    if weight.numel() == 0:
        raise ValueError(
            f"{OP}: weight must hold at least one tap for at least one channel, got shape {tuple(weight.shape)}"
        )
    checks.check_shape(OP, "weight", weight, (channels, width), "channels of x, taps")
    if bias is not None:
        checks.check_tensor(OP, "bias", bias, "D")
        checks.check_shape(OP, "bias", bias, (channels,), "channels of x")
    if activation not in (None, "silu"):
        raise ValueError(f"{OP}: activation must be None or 'silu', got {activation!r}")
    checks.check_cu_seqlens(OP, cu_seqlens, batch, x.device)
    state_shape = (checks.n_sequences(batch, cu_seqlens), width - 1, channels)
    if initial_state is not None:
        checks.check_tensor(OP, "initial_state", initial_state, "S W-1 D")
        checks.check_shape(OP, "initial_state", initial_state, state_shape, "sequences, taps - 1, channels")
    checks.check_together(OP, "x", x=x, weight=weight, bias=bias, initial_state=initial_state)

    backend = choose_backend(OP, __package__, backend, x, weight, bias, initial_state)
    compute, result = checks.state_dtype(x), x.dtype
    window = x.new_zeros(state_shape) if initial_state is None else initial_state
    if backend != "triton":
        x, weight, window = x.to(compute), weight.to(compute), window.to(compute)
        bias = None if bias is None else bias.to(compute)
    if backend == "reference":

        def recurrence(x: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
            return reference.causal_conv1d(x, weight, bias, activation, initial_state=window)

        y, final = over_sequences(OP, recurrence, (x,), window, cu_seqlens)
    else:
        bias = x.new_zeros(channels) if bias is None else bias
        y, final = _causal_conv1d(x, weight, bias, window, cu_seqlens, activation == "silu", backend)
    return y.to(result), final.to(result)


@operator("causal_conv1d", OP)
def _causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    return load_kernels(__package__, backend).forward(x, weight, bias, initial_state, cu_seqlens, silu)


@operator("causal_conv1d_backward", OP)
def _causal_conv1d_backward(
    dy: Tensor,
    dfinal: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    silu: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    return load_kernels(__package__, backend).backward(dy, dfinal, x, weight, bias, initial_state, cu_seqlens, silu)


@_causal_conv1d.register_fake
def _(x, weight, bias, initial_state, cu_seqlens, silu, backend):  # type: ignore[no-untyped-def]
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, initial_state))


@_causal_conv1d_backward.register_fake
def _(dy, dfinal, x, weight, bias, initial_state, cu_seqlens, silu, backend):  # type: ignore[no-untyped-def]
    inputs = (x, weight, bias, initial_state)
    return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in inputs)


def _setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
    *tensors, ctx.silu, ctx.backend = inputs
    ctx.save_for_backward(*tensors)


def _backward(ctx, dy, dfinal):  # type: ignore[no-untyped-def]
    grads = _causal_conv1d_backward(dy, dfinal, *ctx.saved_tensors, ctx.silu, ctx.backend)
    return *grads, None, None, None


_causal_conv1d.register_autograd(_backward, setup_context=_setup_context)
_causal_conv1d_backward.once()
