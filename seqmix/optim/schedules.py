"""Learning rate by step: a warm-up, then a shape. Factors multiply the learning rate of every parameter group.

Steps count from 0 and a run of `total_steps` takes the steps 0 to total_steps - 1. A shape that falls reaches its
floor `final` at `total_steps`, the first step that is not taken: the last step that is taken is one short of the floor,
so that with a floor of 0 it still moves. No shape goes below its floor, at no step beyond the end either; a warm-up
begins at 1 / warmup, wherever the floor is.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

import torch

from seqmix._checks import positive
from seqmix._suggest import unknown_name

__all__ = ["SCHEDULES", "Schedule", "check_schedule", "create_schedule"]

_Factor = Callable[[int], float]

# From 1 at progress 0 to 0 at progress 1.
_STEPS = "a positive number of steps"

_FALLS: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: 1 - progress,
    "1-sqrt": lambda progress: 1 - math.sqrt(progress),
    "cosine": lambda progress: 0.5 * (1 + math.cos(math.pi * progress)),
}


def _warmed_up(shape: _Factor, warmup: int) -> _Factor:
    # Step 0 already moves: the factor is 1 / warmup there and 1 at step warmup - 1.
    return lambda step: (step + 1) / warmup if step < warmup else shape(step)


def _falling(fall: str, begin: int, end: int, final: float) -> _Factor:
    """1 until step `begin`, then down to `final`, which it has from step `end` on."""

    def factor(step: int) -> float:
        progress = min(1.0, max(0.0, (step - begin) / max(1, end - begin)))
        return final + (1 - final) * _FALLS[fall](progress)

    return factor


def cosine(total_steps: int, *, warmup: int = 0, final: float = 0.0, every: int = 1) -> _Factor:
    """From 1 after the warm-up to `final` at `total_steps`, along half a cosine, changing `every` so many steps."""
    shape = _falling("cosine", warmup, total_steps, final)
    return _warmed_up(lambda step: shape(step - (step - warmup) % every), warmup)


def linear(total_steps: int, *, warmup: int = 0, final: float = 0.0) -> _Factor:
    """From 1 after the warm-up to `final` at `total_steps`, along a line."""
    return _warmed_up(_falling("linear", warmup, total_steps, final), warmup)


def constant(total_steps: int, *, warmup: int = 0) -> _Factor:
    """1 after the warm-up."""
    return _warmed_up(lambda step: 1.0, warmup)


def wsd(
    total_steps: int, *, warmup: int = 0, cooldown: float = 0.2, shape: str = "1-sqrt", final: float = 0.0
) -> _Factor:
    """Warm-up, stable, decay: 1 until the cooldown, which is the last `cooldown` steps, or a share of all below 1.

    The horizon matters to the cooldown alone: a run that is stopped before it continues with another `total_steps` as
    if it had had it from the beginning. Sources: 2405.18392 (1 - sqrt), 2601.09000 (linear).
    """
    length = round(cooldown * total_steps) if cooldown < 1 else int(cooldown)
    if warmup + length > total_steps:
        raise ValueError(
            f"schedule 'wsd': warmup + cooldown must be at most the {total_steps} steps of the run, got {warmup} + "
            f"{length}"
        )
    return _warmed_up(_falling(shape, total_steps - length, total_steps, final), warmup)


SCHEDULES: dict[str, Callable[..., _Factor]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
    "wsd": wsd,
}


class Schedule(torch.optim.lr_scheduler.LambdaLR):
    """`LambdaLR` that loads a state only where it continues it.

    A state of a run with another horizon, or another schedule, is taken if both give the step to come the same
    learning rate: a constant rate, or the stable phase of WSD.
    """

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        step = state_dict["last_epoch"]
        before = state_dict["_last_lr"]
        now = [rate * factor(step) for rate, factor in zip(state_dict["base_lrs"], self.lr_lambdas, strict=True)]
        if not all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-15) for a, b in zip(before, now, strict=True)):
            raise ValueError(
                f"schedule: a run continues with other total steps, or another schedule, only where both have the same "
                f"learning rate, as in the stable phase of 'wsd'; at step {step} it was {before[0]:.4g} and would be "
                f"{now[0]:.4g}"
            )
        super().load_state_dict(state_dict)


def check_schedule(name: str, **kwargs: Any) -> None:
    """Raise `ValueError` for an unknown schedule or argument (with the nearest ones), or values out of range."""
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    known = set(inspect.signature(SCHEDULES[name]).parameters) - {"total_steps"}
    for key in kwargs:
        if key not in known:
            raise unknown_name(f"argument of schedule {name!r}:", key, known)
    warmup, final = kwargs.get("warmup", 0), kwargs.get("final", 0.0)
    positive("schedule", "warmup", warmup, 0, "a number of steps of at least 0")
    if isinstance(final, bool) or not isinstance(final, int | float) or not 0 <= final <= 1:
        raise ValueError(f"schedule: final must be a factor in [0, 1], got {final!r}")
    cooldown = kwargs.get("cooldown", 0.2)
    if isinstance(cooldown, bool) or not isinstance(cooldown, int | float) or not cooldown >= 0:
        raise ValueError(f"schedule: cooldown must be a share of the steps below 1, or steps, got {cooldown!r}")
    if cooldown >= 1 and cooldown != int(cooldown):
        raise ValueError(f"schedule: cooldown must be a share of the steps below 1, or whole steps, got {cooldown!r}")
    positive("schedule", "every", kwargs.get("every", 1), what=_STEPS)
    if kwargs.get("shape", "linear") not in _FALLS:
        raise unknown_name("shape of the cooldown", kwargs["shape"], _FALLS)


def create_schedule(name: str, optimizer: torch.optim.Optimizer, total_steps: int, **kwargs: Any) -> Schedule:
    """A scheduler to step once after every optimizer step.

    Args:
        name: `"constant"`, `"cosine"`, `"linear"` or `"wsd"`.
        total_steps: steps of the whole run, warm-up included.
        kwargs: `warmup` (steps), and for those that fall `final` (factor at the end); for `wsd` also `cooldown`
            (steps, or a share of all below 1) and its `shape`: `"1-sqrt"`, `"linear"` or `"cosine"`; for `cosine`
            also `every`, steps between changes, an epoch where the rate is to change once an epoch.

    Raises:
        ValueError: an unknown name or argument, with the nearest ones, a value out of its range, or an optimizer
            without learning rates.

    Example:
        >>> import torch
        >>> from seqmix.optim import create_schedule
        >>> optimizer = torch.optim.SGD(torch.nn.Linear(2, 2).parameters(), lr=1.0)
        >>> schedule = create_schedule("wsd", optimizer, 10, warmup=2, cooldown=4, shape="linear")
        >>> [round(schedule.lr_lambdas[0](step), 2) for step in range(11)]
        [0.5, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    check_schedule(name, **kwargs)
    positive("schedule", "total_steps", total_steps, what=_STEPS)
    if not all("lr" in group for group in optimizer.param_groups):
        owner = type(optimizer).__name__
        raise ValueError(f"schedule: optimizer {owner} has no learning rate; without one the schedule is 'constant'")
    return Schedule(optimizer, SCHEDULES[name](total_steps, **kwargs))
