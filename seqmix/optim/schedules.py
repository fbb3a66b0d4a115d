"""Learning rate by step: a warm-up, then a shape. Factors multiply the learning rate of every parameter group."""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch

from seqmix._suggest import unknown_name

__all__ = ["SCHEDULES", "check_schedule", "create_schedule"]

_Factor = Callable[[int], float]


def _warmed_up(shape: _Factor, warmup: int) -> _Factor:
    # Step 0 already moves: the factor is 1 / warmup there and 1 at step warmup - 1.
    return lambda step: (step + 1) / warmup if step < warmup else shape(step)


def cosine(total_steps: int, *, warmup: int = 0, final: float = 0.0) -> _Factor:
    """From 1 after the warm-up to `final` at `total_steps`, which is the first step that is not taken."""

    def factor(step: int) -> float:
        progress = min(1.0, (step - warmup) / max(1, total_steps - warmup))
        return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * progress))

    return _warmed_up(factor, warmup)


def constant(total_steps: int, *, warmup: int = 0) -> _Factor:
    """1 after the warm-up."""
    return _warmed_up(lambda step: 1.0, warmup)


SCHEDULES: dict[str, Callable[..., _Factor]] = {"constant": constant, "cosine": cosine}


def check_schedule(name: str, **kwargs: Any) -> None:
    """Raise `ValueError` for an unknown schedule or argument (with the nearest ones), or values out of range."""
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    known = set(inspect.signature(SCHEDULES[name]).parameters) - {"total_steps"}
    for key in kwargs:
        if key not in known:
            raise unknown_name(f"argument of schedule {name!r}:", key, known)
    warmup, final = kwargs.get("warmup", 0), kwargs.get("final", 0.0)
    if not isinstance(warmup, int) or isinstance(warmup, bool) or warmup < 0:
        raise ValueError(f"schedule: warmup must be a number of steps of at least 0, got {warmup!r}")
    if not isinstance(final, int | float) or not 0 <= final <= 1:
        raise ValueError(f"schedule: final must be a factor in [0, 1], got {final!r}")


def create_schedule(
    name: str, optimizer: torch.optim.Optimizer, total_steps: int, **kwargs: Any
) -> torch.optim.lr_scheduler.LambdaLR:
    """A scheduler to step once after every optimizer step.

    Args:
        name: `"cosine"` or `"constant"`.
        total_steps: steps of the whole run, warm-up included.
        kwargs: `warmup` (steps), and for cosine `final` (factor at the end).

    Raises:
        ValueError: an unknown name or argument, with the nearest ones, or a value out of its range.
    """
    check_schedule(name, **kwargs)
    return torch.optim.lr_scheduler.LambdaLR(optimizer, SCHEDULES[name](total_steps, **kwargs))
