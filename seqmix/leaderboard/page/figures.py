"""Figures of boards as PNG and SVG: scores, and for each task accuracy over length, state and learning rate."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from seqmix._extras import require
from seqmix._figures import as_text, encode, new_figure, style
from seqmix._files import write_whole
from seqmix.leaderboard.page.board_view import BoardView
from seqmix.leaderboard.page.pages import Names
from seqmix.leaderboard.page.plots import NAMED, Measure, Series
from seqmix.leaderboard.page.svg import shape_of
from seqmix.leaderboard.page.task_page import series_of
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.aggregate import aggregate

__all__ = ["write_figures"]

Draw = Callable[[Any], None]

# As on the pages: eight colours that colour-blind people tell apart, eight shapes.
_COLOURS = ("#0067a8", "#c84e00", "#00805c", "#a8327f", "#6a5acd", "#8a6d00", "#1390b8", "#5a5f69")
_KINDS = ("png", "svg")
_MARKERS = "os^DvP*h"


def write_figures(records: Sequence[Record], folder: Path) -> list[Path]:
    """Write `BOARD-scores`, `BOARD-TASK-length`, `-state` and `-rate`, each as .png and .svg.

    The same records give the same files.

    Raises:
        ValueError: a folder that does not exist.
    """
    require("matplotlib", extra="board", owner="seqmix leaderboard page --figures")
    if not folder.is_dir():
        raise ValueError(f"--figures: expected a folder that exists, got {str(folder)!r}")
    written: list[Path] = []
    names = Names()  # what records call a board is no path
    for board in aggregate(records):
        if not board.columns:
            continue
        view = BoardView(board, "", first=True)
        name = names.of(board.name or "runs")
        written += _save(folder / f"{name}-scores", _scores(view), (6.4, 0.28 * len(view.entries) + 1.2))
        for task in view.tasks:
            series = [series_of(cell) for cell in view.ranked(task)]
            drawings = {"length": _lengths(series, task.measure), "state": _states(series, task.measure)}
            drawings["rate"] = _rates(series, task.validation)
            for kind, draw in drawings.items():
                if draw is not None:
                    written += _save(folder / f"{name}-{task.slug}-{kind}", draw, (7.4, 4.2))
    return written


def _save(stem: Path, draw: Draw, size: tuple[float, float]) -> list[Path]:
    paths = []
    with style("seqmix leaderboard page --figures", settings={"font.size": 9}):
        figure = new_figure(*size)
        axes = figure.subplots()
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.25)
        draw(axes)
        for kind in _KINDS:
            path, data = stem.with_name(f"{stem.name}.{kind}"), encode(figure, kind, dpi=160)
            write_whole(path, partial(_write, data))
            paths.append(path)
            figure.set_layout_engine("none")  # everything has its place, which takes as long to find as to draw
    return paths


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _scores(view: BoardView) -> Draw:
    def draw(axes: Any) -> None:
        entries = view.board.entries[::-1]
        means = np.array([entry.mean for entry in entries])
        bounds = np.array([entry.interval for entry in entries])
        # A mean is within its interval but for rounding.
        arms = np.maximum(np.stack([means - bounds[:, 0], bounds[:, 1] - means]), 0)
        places = np.arange(len(entries))
        whole = np.array([entry.rank is not None for entry in entries])
        for part, colour in ((whole, _COLOURS[0]), (~whole, _COLOURS[-1])):
            axes.errorbar(means[part], places[part], xerr=arms[:, part], fmt="o", color=colour, capsize=3, markersize=5)
        # Means over other tasks do not compare.
        columns = len(view.tasks)
        names = [e.name if e.rank is not None else f"{e.name} ({e.n} of {columns} tasks)" for e in entries]
        axes.set_yticks(places, list(map(as_text, names)))
        axes.set(xlim=(-0.02, 1.02), xlabel="mean normalised score, 95 % interval")

    return draw


def _style(one: Series, place: int, of: int, **more: Any) -> dict[str, Any]:
    """The first entries have colours and names; those behind them are grey, under one name."""
    colour, name = _COLOURS[one.number % len(_COLOURS)], as_text(one.name)
    if place >= NAMED:
        colour, name = "0.75", f"{of - NAMED} others" if place == NAMED else "_"
    marker = {"marker": _MARKERS[shape_of(one.number)], "markersize": 5}
    return {"color": colour, "label": name, "linewidth": 1.3, **marker} | more


def _finish(axes: Any, measure: Measure, legend: bool = True) -> None:
    axes.set_ylabel(measure.name)
    if not measure.text:
        axes.set_ylim(-0.03, 1.03)
        if measure.chance:
            axes.axhline(measure.chance, color="0.4", linestyle=":", linewidth=1)
    if legend:
        handles, labels = axes.get_legend_handles_labels()
        axes.legend(
            handles[::-1], labels[::-1], fontsize="small", frameon=False, loc="center left", bbox_to_anchor=(1, 0.5)
        )


def _lengths(series: Sequence[Series], measure: Measure) -> Draw | None:
    lengths = sorted({length for one in series for length, _, _ in one.lengths})
    if not lengths:
        return None

    def draw(axes: Any) -> None:
        for place, one in reversed(list(enumerate(series))):
            medians = [median for _, median, _ in one.lengths]
            axes.plot([length for length, _, _ in one.lengths], medians, **_style(one, place, len(series)))
        axes.set(xscale="log", xlabel="test length")
        axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
        axes.minorticks_off()
        _finish(axes, measure)

    return draw


def _states(series: Sequence[Series], measure: Measure) -> Draw | None:
    found = [(one, one.state, *one.at) for one in series if one.state and one.at]
    if not found:
        return None

    def draw(axes: Any) -> None:
        for place, (one, state, median, seeds) in reversed(list(enumerate(found))):
            style = _style(one, place, len(found), linestyle="none")
            axes.plot([state, state], [min(seeds), max(seeds)], color=style["color"], linewidth=1, alpha=0.6)
            axes.plot([state], [median], **style)
        axes.set(xscale="log", xlabel="numbers in the state, at the training length")
        _finish(axes, measure)

    return draw


def _rates(series: Sequence[Series], measure: Measure) -> Draw | None:
    if not any(rate.values for one in series for rate in one.rates):
        return None

    def draw(axes: Any) -> None:
        for place, one in reversed(list(enumerate(series))):
            known = [(rate.lr, rate.median) for rate in one.rates if rate.median is not None and rate.lr > 0]
            axes.plot([rate for rate, _ in known], [median for _, median in known], **_style(one, place, len(series)))
            broken = [rate.lr for rate in one.rates if rate.broken and rate.lr > 0]
            floor = 0.0 if not measure.text else max((median for _, median in known), default=8.0)
            axes.plot(broken, [floor] * len(broken), "x", color="#b3261e", markersize=7)
        axes.set(xscale="log", xlabel="learning rate (×: diverged or failed)")
        _finish(axes, measure)

    return draw
