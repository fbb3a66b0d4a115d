"""The width at which a mixer meets a budget: equal parameters, equal state size, or equal training FLOPs.

Models are built on the meta device, which has shapes and no numbers.

    parameters   of blocks and last norm, without embedding and head, which the task decides. `d_model` is solved, and
                 the state follows it where the mixer's own default does.
    state_size   real numbers kept per sequence at the training length, over all layers. `d_model` is the task's; the
                 mixer's own knob is solved, the first of `d_state` and `expand_k` that it has and its row leaves open,
                 or else `d_model` (attention, whose cache grows with both width and length). Where the one that is
                 solved comes in steps too coarse for 3 per cent, the other of the two is solved around it.
    flops        of the whole training, forward and backward: 3 times the forward pass (`seqmix.leaderboard.cost.flops`)
                 times the training tokens. Widths are the task's; the number of steps is solved.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch

from seqmix.leaderboard.boards.budget import Budget
from seqmix.leaderboard.cost.flops import flops_per_token, mean_iterations
from seqmix.leaderboard.cost.footprint import state_size
from seqmix.mixers.registry import get_mixer
from seqmix.models import SequenceModel
from seqmix.models._weights import ShapesAlone
from seqmix.training.module import SequenceLearner

__all__ = ["Size", "TaskShape", "solve"]

_KNOBS = {"d_state": int, "expand_k": float}  # a number, or a share of d_model
_CLOSE = 0.03  # of the budget: near enough with one width changed
_TOLERANCE = 0.1  # of the budget; what is farther off is an error
_WIDEST = 1 << 14
_GAP = 64  # no mixer admits fewer widths than every so many


@dataclass(frozen=True)
class TaskShape:
    """What the size of a model depends on beside its mixer.

    Attributes:
        model: arguments of `SequenceModel` without the mixer, from the config.
        vocab_size, length: of the task, `length` in training.
        tokens_per_step: in one training batch of the longest sequences.
        max_steps: of the config.
    """

    model: dict[str, Any]
    vocab_size: int
    length: int
    tokens_per_step: int
    max_steps: int

    def build(self, mixer: Mapping[str, Any], d_model: int, device: str = "meta") -> SequenceModel:
        """The model."""
        arguments = {**self.model, "d_model": d_model}
        with ShapesAlone():
            return SequenceModel(dict(mixer), vocab_size=self.vocab_size, device=device, **arguments)


@dataclass(frozen=True)
class Size:
    """A solved model: its mixer with every argument that was solved, and what came out.

    Attributes:
        d_model: width of the residual stream.
        mixer: entry of the registry.
        max_steps: training steps.
        parameters: of blocks and last norm.
        state_size: real numbers per sequence at the training length; None where a layer does not say.
    """

    task: TaskShape
    d_model: int
    mixer: dict[str, Any]
    max_steps: int
    parameters: int
    state_size: int | None

    @cached_property
    def flops_per_token(self) -> float:
        """Of a forward pass at the training length; fixed-point layers by the iterations of untrained weights."""
        model = self.task.build(self.mixer, self.d_model)
        if not any(hasattr(module, "last_solve") for module in model.modules()):
            return flops_per_token(model, self.task.length)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.task.build(self.mixer, self.d_model, "cpu")
        return flops_per_token(model, self.task.length, iterations=mean_iterations(model, self.task.length))

    @property
    def flops(self) -> float:
        """Of the whole training."""
        return 3 * self.flops_per_token * self.max_steps * self.task.tokens_per_step

    @property
    def d_state(self) -> int | None:
        """The mixer's own state width, where it has one."""
        return getattr(self.task.build(self.mixer, self.d_model).mixers[0], "d_state", None)


def solve(row: str, mixer: Mapping[str, Any], task: TaskShape, budget: Budget) -> Size:
    """The size of `mixer` on `task` that comes nearest to `budget`; `row` names it in errors.

    Raises:
        ValueError: a mixer that cannot be built, or no width within a tenth of the budget.
    """
    if budget.kind == "flops":
        return _steps(row, _size(mixer, task, _width(task)), budget)

    def measure(size: Size) -> int:
        if budget.kind == "parameters":
            return size.parameters
        if size.state_size is None:
            raise ValueError(f"{row}: the size of its state is unknown; give state_size, real numbers per sequence")
        return size.state_size

    def off(size: Size) -> float:
        return abs(measure(size) - budget.amount) / budget.amount

    def rank(size: Size) -> tuple[float, int, float]:
        # A state's budget changes the task's width as little as it can.
        moved = abs(size.d_model - _width(task)) if budget.kind == "state_size" else 0
        return max(off(size), _CLOSE), moved, off(size)

    by_width, by_knob = (lambda d: _size(mixer, task, d)), _by_knob(mixer, task, _width(task))
    first = by_width if budget.kind == "parameters" or by_knob is None else by_knob
    sizes = _nearest(first, measure, budget.amount)
    if not sizes:
        first(_width(task))  # raises what is wrong with it
        raise ValueError(f"{row}: mixer {mixer['name']!r} has no width for the budget of {budget}")
    if min(map(off, sizes)) > _CLOSE and by_knob is not None:
        # Heads divide few widths: the other of the two is changed a little, too.
        for size in list(sizes):
            second = _by_knob(mixer, task, size.d_model) if first is by_width else partial(_size, size.mixer, task)
            assert second is not None
            sizes += _nearest(second, measure, budget.amount)
    best = min(sizes, key=rank)
    if off(best) > _TOLERANCE:
        near = ", ".join(f"{measure(size):,} at d_model {size.d_model}" for size in sorted(sizes, key=measure))
        raise ValueError(
            f"{row}: no width of mixer {mixer['name']!r} is within {_TOLERANCE:.0%} of the budget of {budget}: {near}"
        )
    return best


def _size(mixer: Mapping[str, Any], task: TaskShape, d_model: int) -> Size:
    model = task.build(mixer, d_model)
    parameters = sum(p.numel() for part in (model.blocks, model.norm) for p in part.parameters())
    return Size(task, d_model, dict(mixer), task.max_steps, parameters, state_size(model, task.length))


def _width(task: TaskShape) -> int:
    return int(task.model.get("d_model", inspect.signature(SequenceLearner).parameters["d_model"].default))


def _by_knob(mixer: Mapping[str, Any], task: TaskShape, d_model: int) -> Callable[[int], Size] | None:
    known = get_mixer(mixer["name"]).parameters()
    for knob, unit in _KNOBS.items():
        if knob in known and mixer.get(knob) is None:
            return lambda n: _size({**mixer, knob: n if unit is int else n / d_model}, task, d_model)
    return None


def _nearest(build: Callable[[int], Size], measure: Callable[[Size], int], wanted: float) -> list[Size]:
    """The sizes around `wanted`, of those that can be built; what is measured grows with the number."""

    def at_least(number: int) -> tuple[int, Size] | None:
        # Heads and blocks divide some widths only: the next one that they do.
        return next(_buildable(build, range(number, number + _GAP)), None)

    low, high = 1, 2
    while (found := at_least(high)) is not None and measure(found[1]) < wanted and high < _WIDEST:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        found = at_least(middle)
        if found is None or measure(found[1]) >= wanted:
            high = middle
        else:
            low = middle + 1
    # Rounding inside a mixer may turn the order of neighbours around.
    below, above = range(low - 1, max(0, low - 1 - _GAP), -1), range(low, low + _GAP)
    return [size for side in (below, above) for _, size in _buildable(build, side, 2)]


def _buildable(build: Callable[[int], Size], numbers: range, count: int = 1) -> Iterator[tuple[int, Size]]:
    for number in numbers:
        try:
            size = build(number)
        except ValueError:
            continue
        yield number, size
        count -= 1
        if not count:
            return


def _steps(row: str, size: Size, budget: Budget) -> Size:
    per_step = 3 * size.flops_per_token * size.task.tokens_per_step
    steps = round(budget.amount / per_step)
    if steps < 1 or not math.isclose(steps * per_step, budget.amount, rel_tol=_TOLERANCE):
        raise ValueError(
            f"{row}: no number of steps of mixer {size.mixer['name']!r} is within {_TOLERANCE:.0%} of the budget of "
            f"{budget}: one step takes {per_step:.3g}"
        )
    return Size(size.task, size.d_model, size.mixer, steps, size.parameters, size.state_size)
