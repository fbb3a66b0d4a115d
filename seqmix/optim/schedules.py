"""Learning rate by step: a warm-up, then a shape. Needs no torch.

Factors multiply the learning rate of every parameter group. Steps count from 0 and a run of `total_steps` takes the
steps 0 to total_steps - 1. A shape that falls reaches its floor `final` at `total_steps`, the first step that is not
taken: the last step that is taken is one short of the floor, so that with a floor of 0 it still moves. No shape goes
below its floor, at no step beyond the end either; a warm-up begins at 1 / warmup, wherever the floor is.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any

from seqmix._checks import is_number, positive
from seqmix._suggest import unknown_name

__all__ = ["SCHEDULES", "STEPS", "check_schedule"]

_Factor = Callable[[int], float]

# From 1 at progress 0 to 0 at progress 1.
STEPS = "a positive number of steps"

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
    """From 1 after the warm-up to `final` at `total_steps`, along half a cosine.

    Args:
        warmup: steps at the beginning in which the rate rises from 1 / warmup of it.
        final: factor at the end.
        every: steps between changes, an epoch where the rate is to change once an epoch.
    """
    shape = _falling("cosine", warmup, total_steps, final)
    return _warmed_up(lambda step: shape(step - (step - warmup) % every), warmup)


def linear(total_steps: int, *, warmup: int = 0, final: float = 0.0) -> _Factor:
    """From 1 after the warm-up to `final` at `total_steps`, along a line.

    Args:
        warmup: steps at the beginning in which the rate rises from 1 / warmup of it.
        final: factor at the end.
    """
    return _warmed_up(_falling("linear", warmup, total_steps, final), warmup)


def constant(total_steps: int, *, warmup: int = 0) -> _Factor:
    """1 after the warm-up.

    Args:
        warmup: steps at the beginning in which the rate rises from 1 / warmup of it.
    """
    return _warmed_up(lambda step: 1.0, warmup)


def wsd(
    total_steps: int, *, warmup: int = 0, cooldown: float = 0.2, shape: str = "1-sqrt", final: float = 0.0
) -> _Factor:
    """Warm-up, stable, decay: 1 until the cooldown, which is the last `cooldown` steps, or a share of all below 1.

    The horizon matters to the cooldown alone: a run that is stopped before it continues with another `total_steps` as
    if it had had it from the beginning. Sources: 2405.18392 (1 - sqrt), 2601.09000 (linear).

    Args:
        warmup: steps at the beginning in which the rate rises from 1 / warmup of it.
        cooldown: steps at the end in which the rate falls, or a share of all below 1.
        shape: of the fall: `1-sqrt`, `linear` or `cosine`.
        final: factor at the end.
    """
    length = round(cooldown * total_steps) if cooldown < 1 else int(cooldown)
    if warmup + length > total_steps:
        raise ValueError(
            f"schedule 'wsd': warmup + cooldown must be at most the {total_steps} steps of the run, got {warmup} + "
            f"{length}"
        )
    return _warmed_up(_falling(shape, total_steps - length, total_steps, final), warmup)


SCHEDULES: dict[str, Callable[..., _Factor]] = {"constant": constant, "cosine": cosine, "linear": linear, "wsd": wsd}


def check_schedule(name: str, **kwargs: Any) -> None:
    """Raise `ValueError` for an unknown schedule or argument (with the nearest ones), or values out of range."""
    if not isinstance(name, str) or name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    known = set(inspect.signature(SCHEDULES[name]).parameters) - {"total_steps"}
    for key in kwargs:
        if key not in known:
            raise unknown_name(f"argument of schedule {name!r}:", key, known)
    warmup, final = kwargs.get("warmup", 0), kwargs.get("final", 0.0)
    positive("schedule", "warmup", warmup, 0, "a number of steps of at least 0")
    if not is_number(final) or not 0 <= final <= 1:
        raise ValueError(f"schedule: final must be a factor in [0, 1], got {final!r}")
    cooldown = kwargs.get("cooldown", 0.2)
    if not is_number(cooldown) or not cooldown >= 0:
        raise ValueError(f"schedule: cooldown must be a share of the steps below 1, or steps, got {cooldown!r}")
    if cooldown >= 1 and cooldown != int(cooldown):
        raise ValueError(f"schedule: cooldown must be a share of the steps below 1, or whole steps, got {cooldown!r}")
    positive("schedule", "every", kwargs.get("every", 1), what=STEPS)
    if kwargs.get("shape", "linear") not in [*_FALLS]:
        raise unknown_name("shape of the cooldown", kwargs["shape"], _FALLS)
