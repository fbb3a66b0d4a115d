"""A schedule of an optimizer, which goes on from a state where the learning rate is the same."""

import math
from typing import Any

import torch

from seqmix._checks import positive
from seqmix.optim.schedules import SCHEDULES, STEPS, check_schedule

__all__ = ["Schedule", "create_schedule"]


class Schedule(torch.optim.lr_scheduler.LambdaLR):
    """`LambdaLR` that loads a state only where it continues it.

    A state of a run with another horizon, or another schedule, is taken if both give the step to come the same
    learning rate: a constant rate, or the stable phase of WSD.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, name: str, total_steps: int, **kwargs: Any) -> None:
        self.name, self.total_steps = name, total_steps
        super().__init__(optimizer, SCHEDULES[name](total_steps, **kwargs))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        step = state_dict["last_epoch"]
        before = state_dict["_last_lr"]
        now = [rate * factor(step) for rate, factor in zip(state_dict["base_lrs"], self.lr_lambdas, strict=True)]
        if not all(math.isclose(a, b, rel_tol=1e-6, abs_tol=1e-15) for a, b in zip(before, now, strict=True)):
            was, would = f"{before[0]:.4g}{_of(state_dict)}", f"{now[0]:.4g}{_of(vars(self))}"
            raise ValueError(
                "schedule: a run continues with other total steps, or another schedule, only where both have the same "
                f"learning rate, as in the stable phase of 'wsd'; at step {step} it was {was} and would be {would}. "
                "A run that was begun with --schedule wsd or constant can be made longer; without --ckpt_path a new "
                f"one of {self.total_steps} steps begins"
            )
        super().load_state_dict(state_dict | {"name": self.name, "total_steps": self.total_steps})


def _of(known: dict[str, Any]) -> str:
    """What has the rate; older checkpoints do not say."""
    return f" with {known['name']!r} over {known['total_steps']} steps" if "name" in known else ""


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
    positive("schedule", "total_steps", total_steps, what=STEPS)
    if not all("lr" in group for group in optimizer.param_groups):
        owner = type(optimizer).__name__
        raise ValueError(
            f"schedule: optimizer {owner} has no learning rate; without one the schedule is 'constant', without warmup"
        )
    return Schedule(optimizer, name, total_steps, **kwargs)
