"""Modules with the parameters of torch's that compute in another way, so that layers call what holds a weight.

A layer that reads the weight of a sub-module passes by what stands in front of it: LoRA, hooks, a quantised copy.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from seqmix.kernels import causal_conv1d
from seqmix.mixers.base import recurrent_dtype


class WideLinear(nn.Linear):
    """A linear map in at least float32, outside autocast, whatever the type of x and of the weights.

    It makes what a recurrence multiplies many times: decays above 0.99 do not survive bf16. Dynamic quantisation of
    `nn.Linear` goes by exact type and leaves it alone for the same reason.
    """

    def forward(self, x: Tensor) -> Tensor:
        real = recurrent_dtype(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            return linear(x.to(real), self.weight.to(real), None if self.bias is None else self.bias.to(real))


class CausalConv1d(nn.Conv1d):
    """The causal depthwise convolution with silu of Mamba, with weight (D, 1, W) and bias as in its checkpoints."""

    def __init__(self, channels: int, width: int, **where: Any) -> None:
        super().__init__(channels, channels, width, groups=channels, **where)

    def forward(  # type: ignore[override]
        self, x: Tensor, window: Tensor | None = None, cu_seqlens: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """y (B, T, D) for x (B, T, D), and the new window (S, W - 1, D)."""
        # Narrow weights follow a wide x; wide ones beside a narrow x are the kernel's business.
        dtype = torch.promote_types(self.weight.dtype, x.dtype)
        weight, bias = self.weight.squeeze(1).to(dtype), None if self.bias is None else self.bias.to(dtype)
        return causal_conv1d(x, weight, bias, "silu", initial_state=window, cu_seqlens=cu_seqlens)
