"""The loop of the small trainings of studies."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from seqmix.optim import schedules
from seqmix.optim.ngn import LossOptimizer

__all__ = ["Watch", "descend"]

Watch = Callable[[int, nn.Module], None]


def descend(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss_at: Callable[[int], Tensor],
    *,
    steps: int,
    schedule: str = "constant",
    clip: float = 1.0,
    watch: Watch | None = None,
    **arguments: Any,
) -> None:
    """Steps on `loss_at(step)`; `schedule` by its name in `seqmix.optim.schedules` with its arguments.

    `watch(step, model)` is called after each step. It ends at a loss that is not finite.
    """
    factor = schedules.SCHEDULES[schedule](steps, **arguments)
    rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor(step)
        optimizer.zero_grad()
        loss = loss_at(step)
        if not torch.isfinite(loss):
            return
        loss.backward()
        if clip:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        if isinstance(optimizer, LossOptimizer):
            optimizer.step(loss=loss.detach())  # type: ignore[call-overload]
        else:
            optimizer.step()
        if watch is not None:
            watch(step, model)
