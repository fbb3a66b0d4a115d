"""What the rows of a study say: a table with intervals, a figure, a verdict for each claim."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from seqmix._figures import COLOURS, MARKERS, encode, new_figure, style
from seqmix._markdown import Markup, code, escaped, markdown_table
from seqmix.leaderboard.summary.statistics import spread
from seqmix.studies.rules import Row, verdict
from seqmix.studies.study import Study

__all__ = ["draw", "render", "table", "verdicts"]


def verdicts(study: Study, rows: Sequence[Row]) -> list[str]:
    """Of each claim, one of `seqmix.studies.rules.VERDICTS`."""
    try:
        return [verdict(claim.conditions, rows, len(study.seeds)) for claim in study.claims]
    except ValueError as error:
        raise ValueError(f"study {study.name}: {error}") from None


def render(study: Study, rows: Sequence[Row]) -> str:
    """Markdown: claims with their verdicts and rules, the table, what it cost."""
    lines = [f"[{escaped(study.authors)}, {study.year}: {escaped(study.about)}]({study.link})", ""]
    for claim, found in zip(study.claims, verdicts(study, rows), strict=True):
        published = f" Published: {escaped(claim.published)}." if claim.published else ""
        lines.append(f"- **{found}**: {escaped(claim.text)}.{published}")
        lines += [f"    - {name}: {code(text)}" for name, text in claim.conditions.items()]
        if claim.needs:
            lines.append(f"    - what would be needed: {escaped(claim.needs)}")
    if rows:
        seconds = sum(row["seconds"] or 0.0 for row in rows)
        lines += ["", table(study, rows), ""]
        lines.append(
            "Median over seeds, with its 95 % bootstrap interval where there are several; "
            f"{len(rows)} runs, {seconds / 60:.1f} minutes of one core."
        )
    return "\n".join(lines)


def table(study: Study, rows: Sequence[Row]) -> str:
    """The table that the study asks for: a row for each combination of `rows`, a column for each of `columns`."""
    asked = study.table
    measures = _listed(asked["measure"])
    down, across = _listed(asked.get("rows", ())), _listed(asked.get("columns", ()))
    heads = _combinations(rows, across)
    named = len(measures) > 1 or not across
    header = [*down, *(_head(across, head, measure if named else "") for head in heads for measure in measures)]
    lines = []
    for levels in _combinations(rows, down):
        mine = _at(rows, down, levels)
        cells = [cell(_at(mine, across, head), measure) for head in heads for measure in measures]
        if any(cells):
            lines.append([*map(_shown, levels), *cells])
    return markdown_table(header, lines, left=len(down))


def cell(rows: Sequence[Row], measure: str) -> str:
    """`median [low, high]` of what the seeds measured; empty where nothing was."""
    values = [row[measure] for row in rows if measure in row]
    if not values:
        return ""
    finite = [float(value) for value in values if value is not None]
    if len(finite) < len(values):
        return f"diverged {len(values) - len(finite)} of {len(values)}"
    if len(finite) == 1:
        return _number(finite[0])
    found = spread(finite)
    if found.high == found.low:
        return _number(found.median)
    return f"{_number(found.median)} [{_number(found.interval[0])}, {_number(found.interval[1])}]"


def draw(study: Study, rows: Sequence[Row]) -> bytes:
    """The figure that the study asks for, as SVG: a line for each level of `lines`, medians with ranges over seeds.

    Factors that are neither on the axis nor tell lines apart are panels.
    """
    asked = study.figure
    measure, x = asked["measure"], asked["x"]
    lines, parts = _listed(asked.get("lines", ())), _listed(asked.get("panels", ()))
    panels = _combinations(rows, parts)
    named = _combinations([row for row in rows if measure in row and x in row], lines)
    with style("seqmix study report --figure"):
        beside = 1.9
        drawing = new_figure(3.6 * len(panels) + beside, 3.2)
        axes = drawing.subplots(1, len(panels), squeeze=False, sharey=True)[0]
        for place, panel in zip(axes, panels, strict=True):
            mine = _at(rows, parts, panel)
            for index, levels in enumerate(named):
                here = _at(mine, lines, levels)
                _line(place, here, measure, x, index, " ".join(map(_shown, levels)))
            if "x" in asked.get("log", ""):
                place.set_xscale("log")
                _tick(place, sorted({row[x] for row in mine if measure in row and x in row}))
            if "y" in asked.get("log", ""):
                place.set_yscale("log")
            place.set(xlabel=asked.get("x_label", x), title=" ".join(map(_shown, panel)))
            place.grid(alpha=0.3)
        axes[0].set_ylabel(asked.get("label", measure))
        if lines:
            handles, labels = axes[0].get_legend_handles_labels()
            drawing.legend(handles, labels, loc="outside right upper", frameon=False, fontsize="small")
        return encode(drawing, "svg")


def _line(axes: Any, rows: Sequence[Row], measure: str, x: str, index: int, label: str) -> None:
    places = list(dict.fromkeys(row[x] for row in rows if x in row and row.get(measure) is not None))
    if not places:
        return
    if all(isinstance(place, int | float) for place in places):
        places.sort()
    values = [[row[measure] for row in rows if row[x] == place and row.get(measure) is not None] for place in places]
    middle = [float(np.median(each)) for each in values]
    around = [[m - min(each) for m, each in zip(middle, values, strict=True)],
              [max(each) - m for m, each in zip(middle, values, strict=True)]]  # fmt: skip
    style_of = {"color": COLOURS[index % len(COLOURS)], "marker": MARKERS[index % len(MARKERS)]}
    axes.errorbar(places, middle, yerr=around, markersize=4, linewidth=1.2, capsize=2, label=label, **style_of)


def _tick(axes: Any, places: Sequence[float]) -> None:
    """At most five of the places on an axis, by their numbers: powers of ten would be few, and others overlap."""
    chosen = places[:: -(-len(places) // 5)]
    axes.set_xticks(chosen, [f"{place:g}" for place in chosen])
    axes.set_xticks([], minor=True)


def _combinations(rows: Iterable[Row], factors: Sequence[str]) -> list[tuple[Any, ...]]:
    """Those that rows have, numbers from the smallest, else in their order; one empty one of no factors."""
    found = list(dict.fromkeys(tuple(_hashable(row.get(factor)) for factor in factors) for row in rows))
    numbers = all(isinstance(level, int | float) and not isinstance(level, bool) for each in found for level in each)
    return sorted(found) if numbers else found


def _at(rows: Iterable[Row], factors: Sequence[str], levels: Sequence[Any]) -> list[Row]:
    return [
        row for row in rows if all(_hashable(row.get(f)) == level for f, level in zip(factors, levels, strict=True))
    ]


def _hashable(value: Any) -> Any:
    return Markup(str(value)) if isinstance(value, list | dict) else value


def _listed(value: Any) -> list[str]:
    return [value] if isinstance(value, str) else list(value)


def _head(across: Sequence[str], levels: Sequence[Any], measure: str) -> str:
    told = ", ".join(f"{name} {_shown(level)}" for name, level in zip(across, levels, strict=True))
    return ", ".join(filter(None, (told, measure))) or "value"


def _shown(level: Any) -> str:
    return f"{level:g}" if isinstance(level, float) else "-" if level is None else str(level)  # a list stands as text


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.2e}"
