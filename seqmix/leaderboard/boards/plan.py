"""The runs of a board: every learning rate with the first seeds, then the best rate with the others.

The best rate is the one with the best validation at the training length (`best_learning_rate`): test data is never
looked at. As soon as all rates of a cell are done its further seeds may start. Tasks come in the order of the file,
and within one the rows take turns, so that a board that is cut short has something of everything.
"""

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from seqmix._checks import positive
from seqmix.leaderboard.boards.board import Board, settings_of
from seqmix.leaderboard.boards.sizing import Size, TaskShape, solve
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import best_learning_rate
from seqmix.leaderboard.sweep.plan import Run, plan_run
from seqmix.mixers.registry import get_mixer
from seqmix.models import SequenceModel
from seqmix.tasks.registry import create_task
from seqmix.training.config.changes import Change
from seqmix.training.config.files import TRAINER, Config

__all__ = ["BoardPlan", "Cell", "sizes_table"]


@dataclass(frozen=True)
class Cell:
    """One row on one task, at its solved size."""

    board: str
    row: str
    task: str
    config: str
    overrides: tuple[str, ...]
    size: Size

    def run(self, rate: float, seed: int) -> Run:
        """The run at one learning rate with one seed."""
        overrides = (*self.overrides, Change("optimizer.lr", rate))
        return plan_run(self.config, overrides, seed, board=self.board, entry=self.row, column=self.task)


class BoardPlan:
    """What is to be done for a board, by what has been done; a `Plan` of `seqmix.leaderboard.sweep.loop`.

    Args:
        board: as loaded.

    Raises:
        ValueError: a row or a task that cannot be built, a size that cannot be solved, or a config that does not
            validate the last weights of a run.
    """

    def __init__(self, board: Board) -> None:
        self.board = board
        self.cells = [cell for task in board.tasks for cell in _cells(board, task)]
        self._runs: dict[tuple[str, str, float, int], Run] = {}
        self._best: dict[tuple[str, str], float | None] = {}

    @property
    def total(self) -> int:
        """Runs of the whole board, but for the seeds of cells where every rate has failed."""
        alike = len({*self.board.grid_seeds} & {*self.board.best_seeds})
        each = len(self.board.rates) * len(self.board.grid_seeds)
        further = len(self.board.best_seeds) - alike
        hopeless = sum(best is None for best in self._best.values())
        return len(self.cells) * (each + further) - hopeless * further

    def runs(self, settled: Mapping[str, Record]) -> list[Run]:
        """All runs that can be planned, first things first; `settled` are last records of runs that are over."""
        return list(self._planned(settled))

    def later(self, settled: Mapping[str, Record]) -> list[str]:
        """Names of the runs that wait for a learning rate."""
        open_cells = [cell for cell in self.cells if not self._over(cell, settled)]
        return [_name(cell) for cell in open_cells for _ in self._further]

    @property
    def _further(self) -> list[int]:
        return [seed for seed in self.board.best_seeds if seed not in self.board.grid_seeds]

    def _planned(self, settled: Mapping[str, Record]) -> Iterator[Run]:
        for task in self.board.tasks:
            cells = [cell for cell in self.cells if cell.task == task]
            for seed in self.board.grid_seeds:
                for rate in self.board.rates:
                    yield from (self._run(cell, rate, seed) for cell in cells)
            for seed in self._further:
                for cell in cells:
                    best = self._best[cell.row, task] if self._over(cell, settled) else None
                    if best is not None:
                        yield self._run(cell, best, seed)

    def _run(self, cell: Cell, rate: float, seed: int) -> Run:
        key = (cell.row, cell.task, rate, seed)
        if key not in self._runs:
            self._runs[key] = cell.run(rate, seed)
        return self._runs[key]

    def _over(self, cell: Cell, settled: Mapping[str, Record]) -> bool:
        """Whether all rates of a cell are done, and with them the best one is known."""
        key = cell.row, cell.task
        if key not in self._best:
            ids = {
                rate: [self._run(cell, rate, seed).id for seed in self.board.grid_seeds] for rate in self.board.rates
            }
            if not all(id in settled for each in ids.values() for id in each):
                return False
            records = {rate: [settled[id] for id in each] for rate, each in ids.items()}
            failed = all(record["status"] == "failed" for each in records.values() for record in each)
            self._best[key] = None if failed else best_learning_rate(records)
        return True


def sizes_table(plan: BoardPlan) -> str:
    """The solved sizes, and how many runs there are."""
    header = ("mixer", "task", "d_model", "d_state", "params", "state size", "flops/token", "steps", "training flops")
    rows = []
    for cell in plan.cells:
        size = cell.size
        numbers = [f"{size.d_model}", "" if size.d_state is None else f"{size.d_state}", f"{size.parameters:,}"]
        numbers += ["unknown" if size.state_size is None else f"{size.state_size:,}"]
        try:
            numbers += [f"{size.flops_per_token:,.0f}", f"{size.max_steps:,}", f"{size.flops:.3g}"]
        except NotImplementedError:  # a layer that is not ours, and cannot be counted
            numbers += ["unknown", f"{size.max_steps:,}", "unknown"]
        rows.append((cell.row, cell.task, *numbers))
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    lines = [
        "  ".join(text.ljust(width) if index < 2 else text.rjust(width) for index, (text, width) in enumerate(pairs))
        for pairs in (list(zip(row, widths, strict=True)) for row in (header, *rows))
    ]
    board = plan.board
    lines += [
        "",
        f"board {board.name}: {board.budget}; {len(plan.cells)} cells, {len(board.rates)} rates, {plan.total} runs",
        "params: blocks and last norm, without embedding and head; state size at the training length; flops/token: "
        "forward; training flops: forward and backward, all tokens at the training length",
    ]
    return "\n".join(line.rstrip() for line in lines)


def _name(cell: Cell) -> str:
    return f"{cell.task} {cell.row}"


def _cells(board: Board, task: str) -> Iterator[Cell]:
    column = board.tasks[task]
    settings = settings_of(column)
    shape = _shape(task, settings)
    for row in board.rows(task):
        mixer = _complete(board.mixers[row], settings.get("mixer"))
        try:
            size = solve(row, mixer, shape, board.budget)
        except ValueError as error:
            raise ValueError(f"board {board.name}: {task}: {error}") from None
        overrides = [*column.overrides, Change("model.d_model", size.d_model), Change("mixer", size.mixer)]
        interval = _trainer(task, settings, "val_check_interval")
        if board.budget.kind == "flops":
            interval = max(1, size.max_steps // max(1, round(size.max_steps / interval)))
            steps = size.max_steps // interval * interval
            size = replace(size, max_steps=steps)
            overrides += [Change("trainer.max_steps", steps), Change("trainer.val_check_interval", interval)]
        elif size.max_steps % interval:
            raise ValueError(
                f"board {board.name}: {task}: trainer.val_check_interval must divide trainer.max_steps = "
                f"{size.max_steps}, so that the last weights are validated, got {interval}"
            )
        yield Cell(board.name, row, task, column.config, tuple(overrides), size)


def _complete(mixer: Mapping[str, Any], own: Any) -> dict[str, Any]:
    # On the command line arguments of a mixer with the same name would be added to those of the config.
    own = own if isinstance(own, dict) else {"name": own}
    if own.get("name") != mixer["name"]:
        return dict(mixer)
    known = get_mixer(mixer["name"]).parameters()
    rest = {key: known[key].default for key in own if key in known and key not in mixer}
    return {**mixer, **rest}


def _shape(task: str, settings: Config) -> TaskShape:
    data = settings.get("data")
    if not isinstance(data, dict) or "name" not in data:
        raise ValueError(f"tasks.{task}: its config has no registered task under data")
    built = create_task(**data)
    length = getattr(built, "train_length", None) or max(each.length for each in built.test_sets)
    steps = _trainer(task, settings, "max_steps")
    known = inspect.signature(SequenceModel).parameters
    model = {key: value for key, value in (settings.get("model") or {}).items() if key in known}
    return TaskShape(model, built.vocab_size, length, built.batch_size * length, steps)


def _trainer(task: str, settings: Config, key: str) -> int:
    value = (settings.get("trainer") or {}).get(key, TRAINER[key])
    return positive(f"tasks.{task}", f"trainer.{key}", value, what="a positive number of steps")
