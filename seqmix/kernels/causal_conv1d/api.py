"""`causal_conv1d`: the short depthwise convolution in front of Mamba, DeltaNet and Selective RoPE."""

from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._handing import handed_on
from seqmix.kernels._prepare import prepare
from seqmix.kernels._recurrent_op import recurrent_op_of_kernels, same
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.causal_conv1d import reference

OP = "causal_conv1d"


@handed_on
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
    channels, width = x.shape[2], weight.shape[1]
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
    given, result = {"x": x, "weight": weight, "bias": bias}, x.dtype
    backend, (x, weight, bias), window = prepare(
        OP, __package__, given, "x", "S W-1 D", (width - 1, channels), initial_state, cu_seqlens, backend, window=True
    )
    if backend == "reference":

        def recurrence(x: Tensor, window: Tensor) -> tuple[Tensor, Tensor]:
            return reference.causal_conv1d(x, weight, bias, activation, initial_state=window)

        y, final = over_sequences(OP, recurrence, (x,), window, cu_seqlens)
    else:
        bias = x.new_zeros(channels) if bias is None else bias
        y, final = _causal_conv1d(x, weight, bias, window, cu_seqlens, activation == "silu", backend)
    return y.to(result), final.to(result)


_causal_conv1d = recurrent_op_of_kernels(
    OP,
    __package__,
    inputs="x weight bias initial_state",
    outputs="y final",
    fakes=same("x", "initial_state"),
    kept="x weight bias initial_state",
    options="bool silu",
)
