"""The columns of a task's table: a column of a recorded field is an entry here."""

from collections.abc import Callable

from seqmix.leaderboard.page import words
from seqmix.leaderboard.page.views import CellView, Column, TaskView, Value
from seqmix.leaderboard.summary.summaries import FAR, NEAR_BEST, CellSummary

__all__ = ["columns_of"]


def columns_of(task: TaskView) -> list[Column[CellView]]:
    """Results at every length, whether they solve the task, and what they took."""
    return [*(_at(task, length) for length in task.lengths), *([] if task.lower else _SOLVED), *_rest(task)]


def _column(title: str, first: str, hint: str, value: Callable[[CellSummary], Value]) -> Column[CellView]:
    return Column(title, first, hint, lambda view: value(view.summary))


def _at(task: TaskView, length: int | str) -> Column[CellView]:
    def value(cell: CellSummary) -> Value:
        at: dict[int | str, tuple[float, tuple[float, ...]]] = {n: (mid, seeds) for n, mid, seeds in cell.by_length}
        if isinstance(length, str):
            at[length] = cell.median, tuple(seed.value for seed in cell.seeds)
        if length not in at:
            return words.value(words.NONE, None)
        (median, values), tell = at[length], task.measure.tell
        hint = f"{tell(min(values))} to {tell(max(values))}, {words.plural(len(values), 'seed')}" if values else ""
        return words.value(tell(median), median, hint)

    title = f"{length:,}" if isinstance(length, int) else length
    return _column(title, task.good, f"median test result at {length}", value)


def _solved(cell: CellSummary) -> Value:
    if not cell.learned:
        return words.value(f"{words.NONE} {words.NOT_LEARNED}", -1)
    low, high = cell.wilson or (0.0, 1.0)
    return words.value(f"{cell.solved}/{cell.n}", (cell.solved or 0) / cell.n, f"Wilson 95 % {low:.2f} to {high:.2f}")


def _score(cell: CellSummary) -> Value:
    return words.value(
        words.fraction(cell.score), cell.score, "over " + ", ".join(map(words.count, cell.score_lengths))
    )


def _counted(field: str) -> Callable[[CellSummary], Value]:
    return lambda cell: words.value(words.count(getattr(cell, field)), getattr(cell, field))


_SOLVED = [
    _column("Solved", "down", "seeds that solved it at the chosen rate", _solved),
    _column("Longest", "down", f"longest test length with a median of {FAR:g}", _counted("longest")),
]


def _rest(task: TaskView) -> list[Column[CellView]]:
    tell, points = task.measure.tell, f"{100 * NEAR_BEST:g} points"
    return [
        _column("Length score", "down", "mean normalised result over multiples of the training length", _score),
        _column(
            "Over rates",
            task.good,
            "median over the grid of learning rates",
            lambda cell: words.value(tell(cell.middle), cell.middle),
        ),
        _column(
            "Robust",
            "down",
            f"share of the grid within {points} of the best rate",
            lambda cell: words.value(words.percent(cell.robustness), cell.robustness),
        ),
        _column(
            "Rate",
            "up",
            "learning rate, chosen on validation data",
            lambda cell: words.value(f"{cell.best:g}", cell.best),
        ),
        _column("State", "up", "numbers kept at the training length", _counted("state")),
        _column("Parameters", "up", words.PARAMETERS, _counted("params")),
        _column(
            "Training",
            "up",
            "median over the seeds",
            lambda cell: words.value(words.duration(cell.seconds), cell.seconds),
        ),
        _column(
            "Runs",
            "down",
            "at every rate and seed",
            lambda cell: words.value(words.count(len(cell.runs)), len(cell.runs)),
        ),
    ]
