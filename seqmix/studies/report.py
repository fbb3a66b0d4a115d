"""What the rows of a study say: a table with intervals, a verdict for each claim."""

from collections.abc import Iterable, Sequence
from typing import Any

from seqmix._checks import is_number
from seqmix._markdown import Markup, code, escaped, markdown_table
from seqmix.leaderboard.summary.statistics import spread
from seqmix.studies.rules import Row, verdict
from seqmix.studies.study import Study

__all__ = ["at", "combinations", "listed", "render", "shown", "table", "verdicts"]


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
    measures = listed(asked["measure"])
    down, across = listed(asked.get("rows", ())), listed(asked.get("columns", ()))
    heads = combinations(rows, across)
    named = len(measures) > 1 or not across
    header = [*down, *(_head(across, head, measure if named else "") for head in heads for measure in measures)]
    lines = []
    for levels in combinations(rows, down):
        mine = at(rows, down, levels)
        cells = [cell(at(mine, across, head), measure) for head in heads for measure in measures]
        if any(cells):
            lines.append([*map(shown, levels), *cells])
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


def combinations(rows: Iterable[Row], factors: Sequence[str]) -> list[tuple[Any, ...]]:
    """Those that rows have, numbers from the smallest, else in their order; one empty one of no factors."""
    found = list(dict.fromkeys(tuple(_hashable(row.get(factor)) for factor in factors) for row in rows))
    numbers = all(is_number(level) for each in found for level in each)
    return sorted(found) if numbers else found


def at(rows: Iterable[Row], factors: Sequence[str], levels: Sequence[Any]) -> list[Row]:
    """The rows with these levels of factors."""
    return [
        row for row in rows if all(_hashable(row.get(f)) == level for f, level in zip(factors, levels, strict=True))
    ]


def _hashable(value: Any) -> Any:
    return Markup(str(value)) if isinstance(value, list | dict) else value


def listed(value: Any) -> list[str]:
    """Names, of one or of several."""
    return [value] if isinstance(value, str) else list(value)


def _head(across: Sequence[str], levels: Sequence[Any], measure: str) -> str:
    told = ", ".join(f"{name} {shown(level)}" for name, level in zip(across, levels, strict=True))
    return ", ".join(filter(None, (told, measure))) or "value"


def shown(level: Any) -> str:
    """A level in a cell or beside an axis."""
    return f"{level:g}" if isinstance(level, float) else "-" if level is None else str(level)  # a list stands as text


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.2e}"
