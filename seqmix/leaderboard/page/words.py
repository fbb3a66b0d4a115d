"""Numbers of a page as text."""

import math
from collections.abc import Sequence
from typing import Any

from seqmix._measures import named
from seqmix.leaderboard.page.plots import Measure
from seqmix.leaderboard.page.views import Value
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import broken, validation_point
from seqmix.leaderboard.summary.summaries import CellSummary, ColumnSummary
from seqmix.leaderboard.tables.runs import mixer_of

__all__ = [
    "NONE",
    "NOT_LEARNED",
    "PARAMETERS",
    "commit_of",
    "count",
    "curve_of",
    "duration",
    "end",
    "fraction",
    "interval",
    "layer_of",
    "measure_of",
    "percent",
    "plural",
    "result_of",
    "style",
    "validation_of",
    "value",
]

NONE = "–"
NOT_LEARNED = "not learned"  # no better than guessing, see `CellSummary.learned`
PARAMETERS = "parameters without embedding and head"


def measure_of(column: ColumnSummary, prefix: str = "") -> Measure:
    """What decides a task, as the plots have it."""
    return Measure(prefix + named(column.metric).phrase, column.text, column.chance)


def value(text: str, number: float | None, hint: str = "") -> Value:
    """A cell of a table: what it shows, what it is sorted by, what the pointer tells. An infinite number comes last."""
    known = number is not None and not math.isnan(number)
    return Value(text, f"{min(number or 0.0, 1e300):.6g}" if known else "", hint)


def fraction(share: float | None) -> str:
    """`.978`, `1.00`; 0.9998 is not 1: what rounds up to it is cut off."""
    if share is None:
        return NONE
    return "1.00" if share == 1 else f"{min(share, 0.999):.3f}".removeprefix("0")


def interval(bounds: tuple[float, float] | None, measure: Measure | None = None) -> str:
    """`95 % interval .911 to .978`; nothing of none."""
    if bounds is None:
        return ""
    low, high = (measure.tell(bound) if measure else fraction(bound) for bound in bounds)
    return f"95 % interval {low} to {high}"


def style(share: float) -> str:
    """A number of a style sheet, from 0 to 1."""
    return f"{min(max(share, 0.0), 1.0):.3f}".rstrip("0").rstrip(".") or "0"


def count(number: float | None) -> str:
    """`12,345`."""
    return NONE if number is None else f"{number:,.0f}"


def percent(share: float | None) -> str:
    """`17 %`."""
    return NONE if share is None else f"{share:.0%}".replace("%", " %")


def end(cell: CellSummary) -> str:
    """`, which is its largest` behind "the best" of a grid; nothing of a rate that has others on both sides."""
    return "" if cell.at_the_end is None else f", which is its {cell.at_the_end}"


def plural(number: int, one: str, many: str = "") -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def duration(seconds: float | None) -> str:
    """`4.2 s`, `6.5 min`, `3.1 h`."""
    if seconds is None:
        return NONE
    if seconds < 100:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    return f"{seconds / 60:.1f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"


def validation_of(run: Record, measure: Measure) -> float | None:
    """The validation that speaks for a run; None if it broke or there was none."""
    point = None if broken(run) else validation_point(run)
    return None if point is None else point["bpb" if measure.text else "accuracy"]


def curve_of(run: Record, measure: Measure) -> tuple[tuple[float, float], ...]:
    """Steps with what validation found there, as far as that is finite."""
    name = "bpb" if measure.text else "accuracy"
    points = [(point["step"], point[name]) for point in run["result"]["curve"] or []]
    return tuple((step, found) for step, found in points if found is not None and math.isfinite(found))


def result_of(run: Record, name: str, column: ColumnSummary) -> float | None:
    """Test result of a run on a set; None if it broke or was not tested there."""
    row = None if broken(run) else run["result"]["metrics"].get(name)
    return None if row is None else float(row[named(column.metric).key])


def layer_of(runs: Sequence[Record]) -> str:
    """The mixer of an entry with the arguments that all its runs have; what is solved for each task is left out."""
    identities = [run["identity"] for run in runs]
    names = list(dict.fromkeys(str(identity["mixer"]) for identity in identities))
    if len(names) != 1:
        return ", ".join(names)
    each = [identity["mixer_kwargs"] for identity in identities]
    if not all(isinstance(arguments, dict) for arguments in each):
        return names[0]
    shared = {k: v for k, v in each[0].items() if all(k in other and other[k] == v for other in each)}
    # Four digits of what a budget has solved are enough to read; the page of a run has all.
    shared = {k: round(v, 4) if isinstance(v, float) and abs(v) >= 0.01 else v for k, v in shared.items()}
    return mixer_of({"identity": {"mixer": names[0], "mixer_kwargs": shared}})


def commit_of(run: Record) -> str:
    """Seven digits, with + where files differed from it."""
    found: Any = run["repro"]["commit"]
    return NONE if found is None else found[:7] + "+" * bool(run["repro"]["dirty"])
