"""What the page of a task shows."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from seqmix.leaderboard.page import method, words
from seqmix.leaderboard.page.board_view import BoardView, broken_facts
from seqmix.leaderboard.page.missing import MissingList, missing_of
from seqmix.leaderboard.page.plots import Rate, Series, curve_plot, length_plot, rate_plot, rates_plot, state_plot
from seqmix.leaderboard.page.task_columns import columns_of
from seqmix.leaderboard.page.views import CellView, Column, Fact, Meta, Mini, PlotView, TaskView, Value
from seqmix.leaderboard.summary.statistics import broken
from seqmix.leaderboard.tables.runs import circumstances
from seqmix.tasks.registry import get_task, list_tasks

__all__ = ["Shared", "TaskPage", "TaskPart", "series_of", "task_page", "task_part"]

# Entries that the plots of one page show.
_DRAWN = 24


@dataclass(frozen=True)
class TaskPage:
    """A task with what its page says."""

    task: TaskView
    cells: list[CellView]  # by rank
    columns: list[Column[CellView]]
    lede: str
    settings: str
    facts: list[Fact]
    versions: str
    warnings: list[str]
    missing: list[MissingList]
    circumstances: str
    validation_name: str
    method: Sequence[Meta] = tuple(method.TASK)


@dataclass(frozen=True)
class Row:
    """A row of the table: a cell with its values in the columns."""

    view: CellView
    columns: list[Value]


@dataclass(frozen=True)
class TaskPart:
    """One of the pages that a long table is cut into, with its plots."""

    rows: list[Row]
    plots: list[PlotView]
    rates: list[Mini]
    curves: list[Mini]
    drawn: list[Series]
    left_out: bool


def task_page(board: BoardView, task: TaskView) -> TaskPage:
    """Everything that the parts of a task's page share."""
    column, cells = task.column, board.ranked(task)
    runs = [run for view in cells for run in view.summary.runs]
    settings = {name: value for name, value in column.kwargs.items() if isinstance(value, int | str)}
    several = f"The test data of these runs are of {len(column.versions)} versions: results do not compare."
    return TaskPage(
        task,
        cells,
        columns_of(task),
        lede=get_task(column.task).description + " " if column.task in list_tasks() else "",
        settings=", ".join(f"{name} {value}" for name, value in settings.items() if name != "name"),
        facts=[
            Fact(words.count(len(cells)), "entries"),
            Fact(words.count(len(runs)), "runs"),
            Fact(words.count(column.train_length), "training length"),
            Fact(words.fraction(column.chance), "chance level"),
            *broken_facts(runs),
        ],
        versions=", ".join(column.versions),
        warnings=[several] if len(column.versions) > 1 else [],
        missing=missing_of(board.board, board.hrefs, board.plan, column.name),
        circumstances=circumstances(runs),
        validation_name=task.validation.name.capitalize(),
    )


def task_part(page: TaskPage, views: Sequence[CellView]) -> TaskPart:
    """A page of these cells."""
    drawn = [series_of(view) for view in views[:_DRAWN]]
    shared, measure, validation, column = Shared(drawn), page.task.measure, page.task.validation, page.task.column
    trained = "" if column.train_length is None else f", trained at length {column.train_length:,}"
    plots = [
        ("Over the test length", f"Median of the seeds at the chosen rate{trained}.", length_plot(drawn, measure)),
        ("Over the size of the state", "Median of the seeds at the training length.", state_plot(drawn, measure)),
        ("Over the learning rate", "Median at each rate, validation data.", rates_plot(drawn, validation)),
    ]
    rates, curves = [], []
    for one, view in zip(drawn, views, strict=False):
        cell, near = view.summary, view.summary.robustness
        none = "one rate" if len(cell.rates) < 2 else words.NOT_LEARNED
        text = none if near is None else f"{words.percent(near)} of the grid near the best{words.end(cell)}"
        rates.append(Mini(view, one.number, rate_plot(one, validation, shared.rates, shared.values, True), text))
        if (svg := curve_plot(one, validation, shared.steps, shared.curve_values, True)) is not None:
            curves.append(Mini(view, one.number, svg, f"rate {cell.best:g}, {words.plural(cell.n, 'seed')}"))
    return TaskPart(
        [Row(view, [column.value(view) for column in page.columns]) for view in views],
        [PlotView(title, text, svg) for title, text, svg in plots if svg is not None],
        rates,
        curves,
        drawn,
        len(views) > len(drawn),
    )


class Shared:
    """Axes that the plots of a task have in common, page by page and on the pages of its cells."""

    def __init__(self, series: Sequence[Series]) -> None:
        points = [point for one in series for _, curve in one.curves for point in curve]
        self.rates = sorted({rate.lr for one in series for rate in one.rates})
        self.values = [value for one in series for rate in one.rates for value, _ in rate.values]
        self.steps = max((step for step, _ in points), default=1.0)
        self.curve_values = [value for _, value in points]


def series_of(view: CellView) -> Series:
    """A cell as the plots have it."""
    cell, entry, validation = view.summary, view.entry, view.task.validation
    lengths = tuple((at, median, values) for at, median, values in cell.by_length if math.isfinite(median))
    # Infinite bits per byte are not drawn at any height.
    lengths = tuple((at, median, tuple(filter(math.isfinite, values))) for at, median, values in lengths)
    home = tuple(seed.value for seed in cell.seeds if math.isfinite(seed.value))
    rates = []
    for rate in cell.rates:
        values, bad = [], []
        for run in rate.runs:
            seed, told, found = run["identity"]["seed"], broken(run), words.validation_of(run, validation)
            if told is not None:
                bad.append((told, seed))
            elif found is not None:
                values.append((found, seed))
        median = rate.validation if rate.validation is not None and math.isfinite(rate.validation) else None
        rates.append(Rate(rate.lr, median, tuple(values), tuple(bad)))
    return Series(
        entry.number,
        entry.name,
        view.page,
        lengths,
        cell.state,
        (cell.median, home) if math.isfinite(cell.median) and home else None,
        tuple(rates),
        cell.best,
        tuple((seed.seed, words.curve_of(seed.run, validation)) for seed in cell.seeds),
    )
