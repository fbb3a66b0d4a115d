"""What the page of a task shows."""

import math
from collections.abc import Sequence

from seqmix.leaderboard.page import method, words
from seqmix.leaderboard.page.missing import missing_of
from seqmix.leaderboard.page.plots import Rate, Series, curve_plot, length_plot, rate_plot, rates_plot, state_plot
from seqmix.leaderboard.page.views import BoardView, View
from seqmix.leaderboard.summary.statistics import broken
from seqmix.leaderboard.summary.summaries import FAR, NEAR_BEST
from seqmix.leaderboard.tables.runs import circumstances
from seqmix.tasks.registry import get_task, list_tasks

__all__ = ["Shared", "series_of", "task_part", "task_view"]

# Entries that the plots of one page show.
_DRAWN = 24
_POINTS = f"{100 * NEAR_BEST:g} points"


def series_of(view: View) -> Series:
    """A cell as the plots have it."""
    cell, entry, task = view["cell"], view["entry"], view["task"]
    lengths = tuple((at, median, values) for at, median, values in cell.by_length if math.isfinite(median))
    # Infinite bits per byte are not drawn at any height.
    lengths = tuple((at, median, tuple(filter(math.isfinite, values))) for at, median, values in lengths)
    home = tuple(seed.value for seed in cell.seeds if math.isfinite(seed.value))
    rates = []
    for rate in cell.rates:
        values, bad = [], []
        for run in rate.runs:
            seed, told, found = run["identity"]["seed"], broken(run), words.validation_of(run, task["validation"])
            if told is not None:
                bad.append((told, seed))
            elif found is not None:
                values.append((found, seed))
        median = rate.validation if rate.validation is not None and math.isfinite(rate.validation) else None
        rates.append(Rate(rate.lr, median, tuple(values), tuple(bad)))
    return Series(
        entry["number"],
        entry["name"],
        view["href"],
        lengths,
        cell.state,
        (cell.median, home) if math.isfinite(cell.median) and home else None,
        tuple(rates),
        cell.best,
        tuple((seed.seed, words.curve_of(seed.run, task["validation"])) for seed in cell.seeds),
    )


class Shared:
    """Axes that the plots of a task have in common, page by page and on the pages of its cells."""

    def __init__(self, series: Sequence[Series]) -> None:
        points = [point for one in series for _, curve in one.curves for point in curve]
        self.rates = sorted({rate.lr for one in series for rate in one.rates})
        self.values = [value for one in series for rate in one.rates for value, _ in rate.values]
        self.steps = max((step for step, _ in points), default=1.0)
        self.curve_values = [value for _, value in points]


def task_view(board: BoardView, task: View) -> None:
    """Complete a task with what its page says."""
    column = task["column"]
    cells = [cell for (_, name), cell in board.cells.items() if name == task["name"] and cell["cell"]]
    task["cells"] = sorted(
        cells, key=lambda view: (view["cell"].rank, -view["cell"].normalised, view["entry"]["place"])
    )
    task["lengths"] = column.lengths or ((column.home,) if column.home else ())
    task["columns"] = _columns(task)
    known = get_task(column.task).description if column.task in list_tasks() else ""
    told = [
        f"{name} {value}" for name, value in column.kwargs.items() if isinstance(value, int | str) and name != "name"
    ]
    task["lede"] = f"{known} " if known else ""
    task["settings"] = ", ".join(told)
    runs = [run for view in task["cells"] for run in view["cell"].runs]
    bad = [kind for run in runs if (kind := broken(run))]
    facts = [
        (words.count(len(task["cells"])), "entries", False),
        (words.count(len(runs)), "runs", False),
        (words.NONE if column.train_length is None else words.count(column.train_length), "training length", False),
        (words.NONE if column.chance is None else words.fraction(column.chance), "chance level", False),
    ]
    facts += [(words.count(bad.count(kind)), kind, True) for kind in ("diverged", "failed") if kind in bad]
    task["facts"] = [dict(zip(("value", "text", "bad"), fact, strict=True)) for fact in facts]
    task["versions"] = ", ".join(column.versions)
    task["warnings"] = (
        [f"The test data of these runs are of {len(column.versions)} versions: results do not compare."]
        if len(column.versions) > 1
        else []
    )
    task["missing"] = missing_of(board.board, board.hrefs, board.plan, column.name)
    task["method"] = method.TASK
    task["circumstances"] = circumstances(runs)
    task["validation_name"] = task["validation"].name.capitalize()


def _columns(task: View) -> list[View]:
    down = "up" if task["lower"] else "down"
    columns = [
        (f"{length:,}" if isinstance(length, int) else length, down, f"median test result at {length}")
        for length in task["lengths"]
    ]
    if not task["lower"]:
        columns += [
            ("Solved", "down", "seeds that solved it at the chosen rate"),
            ("Longest", "down", f"longest test length with a median of {FAR:g}"),
        ]
    columns += [
        ("Length score", "down", "mean normalised result over multiples of the training length"),
        ("Over rates", down, "median over the grid of learning rates"),
        ("Robust", "down", f"share of the grid within {_POINTS} of the best rate"),
        ("Rate", "up", "learning rate, chosen on validation data"),
        ("State", "up", "numbers kept at the training length"),
        ("Parameters", "up", words.PARAMETERS),
        ("Training", "up", "median over the seeds"),
        ("Runs", "down", "at every rate and seed"),
    ]
    return [dict(zip(("text", "first", "hint"), column, strict=True)) for column in columns]


def _row(view: View) -> View:
    cell, task = view["cell"], view["task"]
    tell = task["measure"].tell
    at = {length: (median, values) for length, median, values in cell.by_length}
    columns = []
    for length in task["lengths"]:
        here = (cell.median, tuple(seed.value for seed in cell.seeds)) if isinstance(length, str) else (None, ())
        median, values = at.get(length, here)
        hint = f"{tell(min(values))} to {tell(max(values))}, {words.plural(len(values), 'seed')}" if values else ""
        columns.append(words.value(words.NONE if median is None else tell(median), median, hint))
    if not task["lower"]:
        low, high = cell.wilson
        solved = words.value(f"{cell.solved}/{cell.n}", cell.solved / cell.n, f"Wilson 95 % {low:.2f} to {high:.2f}")
        columns += [solved, words.value(words.count(cell.longest), cell.longest)]
    return {
        "view": view,
        "place": cell.rank,
        "rank": str(cell.rank),
        "tied": cell.tied,
        "columns": [
            *columns,
            words.value(
                words.fraction(cell.score), cell.score, "over " + ", ".join(map(words.count, cell.score_lengths))
            ),
            words.value(tell(cell.middle), cell.middle),
            words.value(words.percent(cell.robustness), cell.robustness),
            words.value(f"{cell.best:g}", cell.best),
            words.value(words.count(cell.state), cell.state),
            words.value(words.count(cell.params), cell.params),
            words.value(words.duration(cell.seconds), cell.seconds),
            words.value(words.count(len(cell.runs)), len(cell.runs)),
        ],
    }


def task_part(task: View, views: Sequence[View]) -> View:
    """A page of these cells."""
    drawn = [series_of(view) for view in views[:_DRAWN]]
    shared, measure, validation, column = Shared(drawn), task["measure"], task["validation"], task["column"]
    trained = "" if column.train_length is None else f", trained at length {column.train_length:,}"
    plots = [
        ("Over the test length", f"Median of the seeds at the chosen rate{trained}.", length_plot(drawn, measure)),
        ("Over the size of the state", "Median of the seeds at the training length.", state_plot(drawn, measure)),
        ("Over the learning rate", "Median at each rate, validation data.", rates_plot(drawn, validation)),
    ]
    rates, curves = [], []
    for one, view in zip(drawn, views, strict=False):
        item = {"view": view, "series": one.number}
        near = view["cell"].robustness
        text = (
            "one rate" if near is None else f"{words.percent(near)} of the grid near the best{words.end(view['cell'])}"
        )
        rates.append(item | {"svg": rate_plot(one, validation, shared.rates, shared.values, True), "text": text})
        if (svg := curve_plot(one, validation, shared.steps, shared.curve_values, True)) is not None:
            text = f"rate {view['cell'].best:g}, {words.plural(view['cell'].n, 'seed')}"
            curves.append(item | {"svg": svg, "text": text})
    return {
        "rows": [_row(view) for view in views],
        "plots": [{"title": title, "text": text, "svg": svg} for title, text, svg in plots if svg is not None],
        "rates": rates,
        "curves": curves,
        "legend": [{"series": one.number, "name": one.name} for one in drawn],
        "drawn": len(drawn),
        "left_out": len(views) > len(drawn),
    }
