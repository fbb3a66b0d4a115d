"""Accuracy over the size of the state: what a memory of so many numbers holds."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from seqmix._figures import as_text, encode, new_figure, style
from seqmix._files import write_bytes_whole
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import accuracy, best_learning_rate
from seqmix.leaderboard.tables.runs import group_runs

__all__ = ["StateCurve", "draw", "state_curves"]


@dataclass
class StateCurve:
    """One mixer on one task; `points` are (numbers in the state, accuracies of the seeds), smallest state first."""

    label: str
    points: list[tuple[int, list[float]]] = field(default_factory=list)


def state_curves(records: Sequence[Record]) -> list[StateCurve]:
    """Test accuracy at the training length, at the best learning rate of each config, over the state there.

    A label is the mixer's name, with what tells the settings of the tasks apart.

    Raises:
        ValueError: nothing was tested at its training length.
    """
    found: dict[str, tuple[str, dict[str, object], list[tuple[int, list[float]]]]] = {}
    for group in group_runs(records):
        runs = group.rates[best_learning_rate(group.rates)]
        identity, length = runs[0]["identity"], runs[0]["result"]["train_length"]
        values = [value for run in runs if (value := accuracy(run, length)) is not None]
        size = (runs[0]["size"]["state_size"] or {}).get(str(length))
        if size is None or not values:
            continue
        settings = identity["task_kwargs"]
        key = repr((identity["mixer"], identity["task"], sorted(settings.items())))
        found.setdefault(key, (identity["mixer"], settings, []))[2].append((size, values))
    if not found:
        raise ValueError("--figure: expected runs that were tested at their training length, got none")
    names = {name for _, settings, _ in found.values() for name in settings}
    differ = sorted(n for n in names if len({repr(settings.get(n)) for _, settings, _ in found.values()}) > 1)
    curves = []
    for mixer, settings, points in found.values():
        told = [f"{name} {settings[name]}" for name in differ if isinstance(settings.get(name), int | float | str)]
        curves.append(StateCurve(", ".join([mixer, *told]), sorted(points)))
    return curves


def draw(path: Path, curves: Sequence[StateCurve]) -> None:
    """An SVG with a line of medians for each curve, and each seed as a dot; the same records give the same file."""
    with style("seqmix leaderboard report --figure"):
        figure = new_figure(6, 3.8)
        axes = figure.subplots()
        for number, curve in enumerate(curves):
            sizes = [size for size, _ in curve.points]
            axes.plot(
                sizes, [np.median(values) for _, values in curve.points], color=f"C{number}", label=as_text(curve.label)
            )
            for size, values in curve.points:
                axes.plot([size] * len(values), values, "o", color=f"C{number}", markersize=4)
        ticks = sorted({size for curve in curves for size, _ in curve.points})
        axes.set(xscale="log", xlabel="numbers in the state", ylabel="test accuracy", ylim=(-0.03, 1.03))
        axes.set_xticks(ticks, [f"{size:,}" for size in ticks], rotation=30)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small", frameon=False)
        data = encode(figure, "svg")
    write_bytes_whole(path, data)
