"""Norms of the residual stream: layer norm, and batch norm as in the blocks of the LRU's paper."""

from typing import Any

import torch
from torch import Tensor, nn

from seqmix.mixers.base import one_of, recurrent_dtype

__all__ = ["NORMS", "BatchNorm", "norm_of", "normed"]

NORMS = ("layer", "batch")


class BatchNorm(nn.Module):
    """Every channel of x (B, T, D) over all tokens of the batch (Ioffe and Szegedy 2015), with weight and bias.

    In training mean and variance are those of the batch, padding left out, and their running means follow; in eval
    mode the running means are used, so that a token never depends on others. A batch in parts, by accumulation or over
    processes, has statistics of each part.

    Args:
        d_model: D.
        momentum: how far the running means move with each batch.
        eps: beside the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(
        self,
        d_model: int,
        momentum: float = 0.1,
        eps: float = 1e-5,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        where: dict[str, Any] = {"device": device, "dtype": dtype}
        self.momentum, self.eps = momentum, eps
        self.weight = nn.Parameter(torch.ones(d_model, **where))
        self.bias = nn.Parameter(torch.zeros(d_model, **where))
        self.register_buffer("running_mean", torch.zeros(d_model, **where))
        self.register_buffer("running_var", torch.ones(d_model, **where))

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> Tensor:
        real = recurrent_dtype(x.dtype)
        with torch.autocast(x.device.type, enabled=False):
            wide, mean, var = x.to(real), self.running_mean.to(real), self.running_var.to(real)
            if self.training and x.shape[0]:
                mean, var = self._observe(wide, lengths)
            scale = self.weight.to(real) * torch.rsqrt(var + self.eps)
            return ((wide - mean) * scale + self.bias.to(real)).to(x.dtype)

    def _observe(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor]:
        """Mean and variance (D,) of the tokens, of which the running means take note."""
        batch, time = x.shape[:2]
        if lengths is None:
            lengths = torch.full((batch,), time, device=x.device)
        mask = (torch.arange(time, device=x.device) < lengths[:, None]).unsqueeze(-1)  # (B, T, 1)
        n = lengths.sum().clamp_min(1).to(x.dtype)
        mean = (x * mask).sum((0, 1)) / n
        var = ((x - mean) * mask).square().sum((0, 1)) / n
        with torch.no_grad():
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
            unbiased = var * n / (n - 1).clamp_min(1)
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean, var


def norm_of(kind: str, d_model: int, **like: Any) -> nn.Module:
    """A norm by name. Layer norms are without bias: on a CPU torch fuses those, its RMS norm is five times slower."""
    one_of("SequenceModel", "norm", kind, NORMS)
    return nn.LayerNorm(d_model, bias=False, **like) if kind == "layer" else BatchNorm(d_model, **like)


def normed(norm: nn.Module, x: Tensor, lengths: Tensor | None) -> Tensor:
    """`norm(x)`; over tokens of several sequences it leaves padding out."""
    return norm(x, lengths) if isinstance(norm, BatchNorm) else norm(x)
