"""Rows of a study whose runs are training runs: factors and measures by name, from their records."""

from collections import defaultdict
from pathlib import Path
from typing import Any

from seqmix._measures import at, named
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.records.store import latest, scan_runs
from seqmix.leaderboard.summary.statistics import best_learning_rate, broken, learning_rate
from seqmix.studies.rules import Row
from seqmix.studies.study import Study

__all__ = ["factors_of", "rows_of_runs"]


def rows_of_runs(study: Study, store: Path) -> list[Row]:
    """A row for each run in `store`, `chosen` where it is at the rate that validation chose for its factors, as boards
    have it; of a study that says `chosen` those rows alone.

    A run that diverged or failed has no right answers; its bits and losses are None, which conditions take as infinite.
    """
    records, problems = scan_runs(store)
    if problems:
        raise ValueError(problems[0])
    runs = [(_row(study, run), run) for run in latest(records)]
    runs = [(row, run) for row, run in runs if all(row.get(name) in values for name, values in study.only.items())]
    rates: dict[tuple[Any, ...], dict[float, list[Record]]] = defaultdict(lambda: defaultdict(list))
    for row, run in runs:
        rates[_cell(study, row)][row["lr"]].append(run)
    best = {cell: best_learning_rate(by_rate) for cell, by_rate in rates.items()}
    rows: list[Row] = [row | {"chosen": row["lr"] == best[_cell(study, row)]} for row, _ in runs]
    return [row for row in rows if row["chosen"]] if study.chosen else rows


def factors_of(study: Study, settings: dict[str, Any]) -> dict[str, Any]:
    """The study's factors by the settings of a run; None for what these do not say."""
    found = {}
    for name, path in study.factors.items():
        value: Any = settings
        for key in path.split("."):
            value = value.get(key) if isinstance(value, dict) else None
        found[name] = "+".join(map(str, value)) if isinstance(value, list) else value
    return found


def _cell(study: Study, row: Row) -> tuple[Any, ...]:
    return tuple(str(row.get(factor)) for factor in ("entry", "column", *study.factors))


def _row(study: Study, record: Record) -> dict[str, Any]:
    identity = record["identity"]
    row: dict[str, Any] = {"seed": identity["seed"], "lr": learning_rate(record)}
    if identity["entry"] is not None:
        row |= {"entry": identity["entry"], "column": identity["column"]}
    row |= factors_of(study, identity["settings"])
    for name, (where, key) in study.measures.items():
        deciding = record["result"]["metric"]
        if key == "deciding" and deciding is None:  # of a run that failed before anything was measured
            continue
        measure = named(deciding) if key == "deciding" else at(key)
        metrics = record["result"]["metrics"].get(_test_set(record, where))
        if broken(record):
            row[name] = None if measure.less else 0.0
        elif metrics is not None and measure.key in metrics:  # configs differ in what they are tested at
            row[name] = metrics[measure.key]
    return row | {"seconds": record["cost"]["wall_seconds"]}


def _test_set(record: Record, where: str) -> str:
    """A test set by its name, or by its length in training lengths: `2x`."""
    length = record["result"]["train_length"]
    return str(int(where[:-1]) * length) if where[:-1].isdecimal() and where.endswith("x") and length else where
