"""AdamW as the registry has it."""

from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

__all__ = ["adamw"]


def adamw(
    params: list[dict[str, Any]],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    fused: bool | None = None,
) -> Optimizer:
    """`torch.optim.AdamW`, fused where every parameter allows it, without decay unless asked."""
    if fused is None:
        tensors = [p for group in params for p in group["params"]]
        fused = all(type(p) in (nn.Parameter, torch.Tensor) and p.is_floating_point() for p in tensors)
    optimizer = torch.optim.AdamW(
        params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, fused=fused
    )
    # The fused step would undo a gradient scaler's factor itself, after clipping: mixed precision under Lightning then
    # refuses to clip. Without this it is undone before, as for any other optimizer.
    optimizer._step_supports_amp_scaling = False
    return optimizer
