"""What records say about each entry on each task of each board.

A cell is an entry (row) on a task (column) with its learning rates and seeds. The rate is chosen on validation data, by
the seeds that all rates have in common; what is shown is test data.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.records.store import latest
from seqmix.leaderboard.summary.cells import cell_of
from seqmix.leaderboard.summary.ranking import mean_interval, ranks
from seqmix.leaderboard.summary.statistics import normalised
from seqmix.leaderboard.summary.summaries import BoardSummary, CellSummary, ColumnSummary, EntrySummary

__all__ = ["aggregate"]


def aggregate(records: Iterable[Record]) -> list[BoardSummary]:
    """Boards in the order of the records; of a run that was tried again the last attempt counts.

    Example:
        >>> from seqmix.leaderboard import aggregate, read_runs
        >>> boards = aggregate(read_runs("docs/results/a5.jsonl"))  # doctest: +SKIP
        >>> boards[0].cells["a5", "word-problem"].solved  # doctest: +SKIP
        5
    """
    boards: dict[str, dict[str, dict[str, list[Record]]]] = {}
    runs = latest(records)
    loose = _loose_columns([run for run in runs if run["identity"]["board"] is None])
    metrics: dict[tuple[str, str], str] = {}
    for record in runs:
        board, entry, column = _place(record, loose)
        metric = record["result"]["metric"]
        # What is measured otherwise stands in no column with it.
        while metric is not None and metrics.setdefault((board, column), metric) != metric:
            column = f"{column} ({metric})"
        boards.setdefault(board, {}).setdefault(column, {}).setdefault(entry, []).append(record)
    return [_board(name, columns) for name, columns in boards.items()]


def _loose_columns(runs: Sequence[Record]) -> dict[str, str]:
    """Columns of runs without a board, by their ids: tasks, apart where test data or training lengths differ.

    A run that failed before it knew its task is where others of its config are.
    """
    kinds: dict[str, dict[Any, list[Record]]] = {}
    for run in runs:
        identity = run["identity"]
        if identity["task"] is not None:
            data = identity["task_version"], run["result"]["train_length"]
            kinds.setdefault(identity["task"], {}).setdefault(data, []).append(run)
    columns: dict[str, str] = {}
    homes: dict[str, str] = {}
    for task, groups in kinds.items():
        taken: set[str] = set()
        for some in groups.values():
            label = " ".join([some[0]["identity"]["config"], *_changes(some[0], "data.")])
            name = next(f"{task} ({text})" for text in _numbered(label) if f"{task} ({text})" not in taken)
            taken.add(name)
            for run in some:
                columns[run["id"]] = task if len(groups) == 1 else name
                homes.setdefault(_config(run), columns[run["id"]])
    for run in runs:
        data = run["identity"]["settings"].get("data")
        known = data.get("name") if isinstance(data, dict) else None
        columns.setdefault(run["id"], homes.get(_config(run)) or known or run["identity"]["config"])
    return columns


def _numbered(label: str) -> Iterator[str]:
    yield label
    yield from (f"{label}, {number}" for number in itertools.count(2))


def _changes(run: Record, beginning: str = "") -> list[str]:
    changes = run["identity"]["overrides"]
    return [text for text in changes if text.startswith(beginning) and not text.startswith("optimizer.lr=")]


def _config(run: Record) -> str:
    return " ".join([run["identity"]["config"], *_changes(run)])


def _place(record: Record, loose: dict[str, str]) -> tuple[str, str, str]:
    identity = record["identity"]
    entry, column = identity["entry"], identity["column"]
    if identity["board"] is None:
        entry, column = _config(record), loose[record["id"]]
    entry = entry or identity["mixer"] or identity["config"]
    if identity["submission"] is not None:
        entry = f"{identity['submission']}/{entry}"
    return identity["board"] or "", entry, column or identity["task"] or identity["config"]


def _board(name: str, columns: dict[str, dict[str, list[Record]]]) -> BoardSummary:
    cells: dict[tuple[str, str], CellSummary] = {}
    known, unmeasured = [], []
    for column, rows in columns.items():
        summary = _column(column, [run for runs in rows.values() for run in runs])
        if summary is None:
            unmeasured.append(column)
            continue
        known.append(summary)
        found = {(entry, column): cell_of(entry, summary, runs) for entry, runs in rows.items()}
        order = sorted((cell for cell in found.values() if cell.learned), key=lambda cell: -cell.normalised)
        places = ranks([cell.normalised_interval or (0.0, 1.0) for cell in order], [cell.solved for cell in order])
        for cell, (rank, tied) in zip(order, places, strict=True):
            cell.rank, cell.tied = rank, tied
        cells |= found
    runs = [run for rows in columns.values() for some in rows.values() for run in some]
    return BoardSummary(name, _entries(cells, known), known, cells, runs, tuple(unmeasured))


def _column(name: str, runs: Sequence[Record]) -> ColumnSummary | None:
    measured = [run for run in runs if run["status"] == "ok"]
    if not measured:
        return None
    first = next((run for run in measured if run["result"]["metrics"]), measured[0])
    result, identity = first["result"], first["identity"]
    sets = list(first["size"]["state_size"] or result["metrics"])
    trained = result["train_length"]
    home = str(trained) if str(trained) in sets else next(iter(sets), "")
    lengths = {int(length) for run in measured for length in run["result"]["metrics"] if length.isdecimal()}
    versions = {run["identity"]["task_version"] for run in measured} - {None}
    return ColumnSummary(
        name,
        identity["task"],
        identity["task_kwargs"],
        result["metric"],
        result["chance"],
        trained,
        home,
        tuple(sorted(versions)),
        tuple(sorted(lengths)),
    )


def _entries(cells: dict[tuple[str, str], CellSummary], columns: Sequence[ColumnSummary]) -> list[EntrySummary]:
    rows: dict[str, list[CellSummary]] = {}
    for cell in cells.values():
        rows.setdefault(cell.entry, []).append(cell)
    texts = {column.name: column for column in columns}
    means = {entry: float(np.mean([cell.normalised for cell in row])) for entry, row in rows.items()}
    intervals = {
        entry: mean_interval([_scores(cell, texts[cell.column]) for cell in row]) for entry, row in rows.items()
    }
    order = sorted(rows, key=lambda entry: (len(rows[entry]) < len(columns), -means[entry], entry))
    whole = [entry for entry in order if len(rows[entry]) == len(columns)]
    places = dict(zip(whole, ranks([intervals[entry] for entry in whole]), strict=True))
    found = []
    for entry in order:
        row = rows[entry]
        rank, tied = places.get(entry, (None, False))
        submission = row[0].runs[0]["identity"]["submission"]
        found.append(EntrySummary(entry, submission, len(row), means[entry], intervals[entry], rank, tied))
    return found


def _scores(cell: CellSummary, column: ColumnSummary) -> list[float]:
    return [normalised(seed.value, column.chance, text=column.text) for seed in cell.seeds]
