"""The figure of a study: medians with ranges over seeds, along numbers as lines, along names as rows of points."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from seqmix._checks import is_number
from seqmix._figures import COLOURS, MARKERS, as_text, encode, new_figure, style
from seqmix.studies.report import at, combinations, listed, shown
from seqmix.studies.rules import Row
from seqmix.studies.study import Study

__all__ = ["draw"]


def draw(study: Study, rows: Sequence[Row]) -> bytes:
    """The figure that the study asks for, as SVG; factors that are neither on the axis nor tell lines apart are panels.

    Where a run diverged there is no point, as in the table there is no number.
    """
    asked = study.figure
    measure, x = asked["measure"], asked["x"]
    names, parts = listed(asked.get("lines", ())), listed(asked.get("panels", ()))
    rows = [row for row in rows if measure in row]
    places: list[Any] = list(dict.fromkeys(row.get(x) for row in rows))
    along = bool(places) and all(map(is_number, places))
    panels, lines = combinations(rows, parts), combinations(rows, names)
    with style("seqmix study report --figure"):
        height = 3.2 if along else 1.0 + 0.26 * len(places) * max(1.0, len(lines) / 3)
        drawing = new_figure(3.6 * len(panels) + 1.9, height)
        axes = drawing.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for place, panel in zip(axes, panels, strict=True):
            for index, levels in enumerate(lines):
                here = at(at(rows, parts, panel), names, levels)
                told = [f"{name} {shown(each)}" for name, each in zip(names, levels, strict=True) if each is not None]
                label = as_text(", ".join(told)) or "as it is"
                if along:
                    _line(place, here, measure, x, index, label)
                else:
                    _points(place, here, measure, x, places, (index, len(lines)), label)
            (_number_axes if along else _name_axes)(place, asked, places)
            place.set_title(as_text(" ".join(map(shown, panel))))
            place.grid(alpha=0.3)
        if along:
            axes[0].set_ylabel(asked.get("label", measure))
        if names:
            _legend(drawing, axes)
        return encode(drawing, "svg")


def _legend(drawing: Any, axes: Sequence[Any]) -> None:
    """Of the lines of all panels: some have lines that the first has not."""
    found: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    place = {"loc": "outside right upper", "frameon": False, "fontsize": "small"}
    drawing.legend(list(found.values()), list(found), **place)


def _line(axes: Any, rows: Sequence[Row], measure: str, x: str, index: int, label: str) -> None:
    found = _values(rows, measure, x)
    if found:
        places = sorted(found)
        middle, around = _spread([found[place] for place in places])
        axes.errorbar(places, middle, yerr=around, linewidth=1.2, label=label, **_style(index))


def _points(
    axes: Any, rows: Sequence[Row], measure: str, x: str, places: Sequence[Any], turn: tuple[int, int], label: str
) -> None:
    """A row for each name, from the top; lines of the same name stand below each other."""
    found = _values(rows, measure, x)
    if found:
        index, count = turn
        middle, around = _spread(list(found.values()))
        beside = [places.index(place) + 0.7 * ((index + 0.5) / count - 0.5) for place in found]
        axes.errorbar(middle, beside, xerr=around, linestyle="none", elinewidth=1.2, label=label, **_style(index))


def _values(rows: Sequence[Row], measure: str, x: str) -> dict[Any, list[float]]:
    """By place, what the seeds measured; nothing where one of them diverged."""
    found: dict[Any, list[Any]] = {}
    for row in rows:
        found.setdefault(row.get(x), []).append(row[measure])
    return {place: values for place, values in found.items() if None not in values}


def _spread(values: Sequence[Sequence[float]]) -> tuple[list[float], list[list[float]]]:
    middle = [float(np.median(each)) for each in values]
    below = [m - min(each) for m, each in zip(middle, values, strict=True)]
    return middle, [below, [max(each) - m for m, each in zip(middle, values, strict=True)]]


def _style(index: int) -> dict[str, Any]:
    marker, colour = MARKERS[index % len(MARKERS)], COLOURS[index % len(COLOURS)]
    return {"color": colour, "marker": marker, "markersize": 4, "capsize": 2}


def _number_axes(axes: Any, asked: Any, places: Sequence[float]) -> None:
    """Ticks are places, at most five: powers of ten would be few, and others overlap."""
    for axis in asked.get("log", ""):
        (axes.set_xscale if axis == "x" else axes.set_yscale)("log")
    ordered = sorted(places)
    chosen = ordered if len(ordered) <= 8 and "x" not in asked.get("log", "") else ordered[:: -(-len(ordered) // 5)]
    axes.set_xticks(chosen, [f"{place:g}" for place in chosen])
    axes.set_xticks([], minor=True)
    axes.set_xlabel(asked.get("x_label", asked["x"]))


def _name_axes(axes: Any, asked: Any, places: Sequence[Any]) -> None:
    if "y" in asked.get("log", ""):
        axes.set_xscale("log")
    axes.set_yticks(range(len(places)), [as_text(shown(place)) for place in places])
    axes.set_ylim(len(places) - 0.4, -0.6)
    axes.set_xlabel(asked.get("label", asked["measure"]))
