"""The depthwise causal convolution as a plain sum over taps; the truth that every kernel is held to."""

import torch
from torch import Tensor
from torch.nn.functional import silu


def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None, *, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """y_t = activation(bias + sum_{i < W} weight_i x_{t-W+1+i}); inputs before the first come from the state.

    Shapes: x (B, T, D), weight (D, W), bias (D,), initial_state (B, W - 1, D), oldest first; returns y (B, T, D) and
    the last W - 1 inputs (B, W - 1, D).
    """
    length, width = x.shape[1], weight.shape[1]
    window = torch.cat((initial_state, x), dim=1)
    y = torch.zeros_like(x) if bias is None else bias.expand_as(x)
    for i in range(width):
        y = y + weight[:, i] * window[:, i : i + length]
    return (silu(y) if activation == "silu" else y), window[:, length:].clone()
