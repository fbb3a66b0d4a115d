"""What a page is made of, to take away: a row for each cell, a row for each run, the records themselves."""

import csv
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import broken, learning_rate
from seqmix.leaderboard.summary.summaries import BoardSummary, CellSummary, ColumnSummary

__all__ = ["write_cells", "write_records", "write_runs"]

_CELL = ("median", "low", "high", "mean", "normalised", "middle", "best", "n", "solved", "robustness", "score")
_REST = ("longest", "params", "params_total", "state", "seconds", "rank")


def write_cells(path: Path, board: BoardSummary) -> None:
    """A row for each cell of a board."""
    _write(path, ("entry", "task", *_CELL, *_REST, "runs"), (_cell(cell) for cell in board.cells.values()))


def _cell(cell: CellSummary) -> list[Any]:
    return [cell.entry, cell.column, *(getattr(cell, name) for name in (*_CELL, *_REST)), len(cell.runs)]


def write_runs(path: Path, column: ColumnSummary, cells: Iterable[CellSummary], measure: str) -> None:
    """A row for each run of a task; `measure` is the name of its results in records."""
    names = [str(length) for length in column.lengths] or [column.home]
    header = ("entry", "id", "seed", "lr", "status", *(f"{measure}_{name}" for name in names), "steps", "train_seconds")
    _write(path, (*header, "command"), (_run(cell.entry, run, names, measure) for cell in cells for run in cell.runs))


def _run(entry: str, run: Record, names: Sequence[str], measure: str) -> list[Any]:
    metrics = run["result"]["metrics"] or {}
    results = [metrics.get(name, {}).get(measure) for name in names]
    told = broken(run) or "ok"
    cost = [run["training"]["steps"], run["cost"]["train_seconds"]]
    return [
        entry,
        run["id"],
        run["identity"]["seed"],
        learning_rate(run),
        told,
        *results,
        *cost,
        run["repro"]["command"],
    ]


def write_records(path: Path, runs: Iterable[Record]) -> None:
    """The records, as `seqmix leaderboard` reads them."""
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for run in runs:
            file.write(json.dumps(run, separators=(",", ":")) + "\n")


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_plain(item) for item in row] for row in rows)


def _plain(item: Any) -> Any:
    # A spreadsheet takes text that begins like a formula for one.
    return f"'{item}" if isinstance(item, str) and item[:1] in ("=", "+", "-", "@", "\t", "\r") else item
