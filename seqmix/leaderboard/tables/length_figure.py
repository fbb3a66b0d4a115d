"""Accuracy over the length of the test words: how far beyond its training length each layer holds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from seqmix._figures import COLOURS, MARKERS, as_text, encode, label_ends, new_figure, style
from seqmix._files import write_bytes_whole
from seqmix._measures import named
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import accuracy, best_learning_rate
from seqmix.leaderboard.tables.runs import COLUMN_MEASURES, group_runs

__all__ = ["LengthCurve", "draw", "length_curves"]


@dataclass(frozen=True)
class LengthCurve:
    """One config at its best learning rate; `points` are (length, accuracies of the seeds), shortest first."""

    label: str
    points: list[tuple[int, list[float]]]
    trained: int | None
    chance: float | None
    measure: str


def length_curves(records: Sequence[Record], measure: str | None = None) -> list[LengthCurve]:
    """Test accuracy at every length by a measure (`tok`, `last`, `seq`), by default the one that decides the task.

    A label is the mixer's name, or the config's where several have that mixer.

    Raises:
        ValueError: nothing was tested at a length.
    """
    groups = group_runs(records)
    mixers = [group.runs[0]["identity"]["mixer"] for group in groups]
    curves = []
    for group, mixer in zip(groups, mixers, strict=True):
        runs = group.rates[best_learning_rate(group.rates)]
        lengths = sorted({int(name) for run in runs for name in run["result"]["metrics"] or () if name.isdecimal()})
        found = [(n, [value for run in runs if (value := accuracy(run, n, measure)) is not None]) for n in lengths]
        if not lengths:
            continue
        result = next(run["result"] for run in runs if run["result"]["metrics"])
        name = COLUMN_MEASURES[measure] if measure else named(result["metric"]).phrase
        label = mixer if mixers.count(mixer) == 1 else group.label
        curves.append(LengthCurve(label, found, result["train_length"], result["chance"], name))
    if not curves:
        raise ValueError("--figure: expected runs that were tested at some length, got none")
    return curves


def draw(path: Path, curves: Sequence[LengthCurve]) -> None:
    """An SVG with a line of medians for each curve, named at its end, each seed as a dot; always the same file."""
    with style("seqmix leaderboard report --figure"):
        figure = new_figure(7, 3.4)
        axes = figure.subplots()
        ends = []
        for number, curve in enumerate(curves):
            colour, lengths = COLOURS[number % len(COLOURS)], [length for length, _ in curve.points]
            medians = [float(np.median(values)) for _, values in curve.points]
            # Lines that lie on one another are seen inside each other.
            width = 1.4 + 1.2 * min(3, len(curves) - 1 - number)
            marker = {"marker": MARKERS[number % len(MARKERS)], "markersize": 3.5 + width}
            axes.plot(lengths, medians, color=colour, linewidth=width, **marker)
            for length, values in curve.points:
                axes.plot([length] * len(values), values, "o", color=colour, markersize=2.5, alpha=0.6)
            ends.append((lengths[-1], medians[-1], as_text(curve.label), colour))
        label_ends(axes, ends)
        ticks = sorted({length for curve in curves for length, _ in curve.points})
        axes.set(xscale="log", xlabel="length of the test words", ylabel=curves[0].measure, ylim=(-0.03, 1.06))
        axes.set_xticks(ticks, [f"{length:,}" for length in ticks])
        axes.minorticks_off()
        for trained in {curve.trained for curve in curves} - {None}:
            axes.axvline(trained, color="0.6", linestyle="--", linewidth=1)
            offset = {"xytext": (4, 0), "textcoords": "offset points", "color": "0.5", "fontsize": "small"}
            axes.annotate("trained up to here", (trained, 0.55), **offset)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
        data = encode(figure, "svg")
    write_bytes_whole(path, data)
