"""Records as a Parquet file for analysis, and back.

A column for each field, named as in the record (`training.lr`, `cost.cpu_seconds`), null where the record is; objects
and lists are JSON text. What was measured in the test stands beside, a column for each set and measure (`test.16.seq`),
so that nobody has to take JSON apart; these repeat `result.metrics`, and are not read back.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from seqmix._extras import require
from seqmix._files import write_whole
from seqmix.leaderboard.records.checks import problems_of
from seqmix.leaderboard.records.schema import FIELDS, MAX_BYTES, SCHEMA_VERSION, TOP, Record

__all__ = ["read_parquet", "write_parquet"]

_ROWS = 64  # that are taken apart before anybody knows how large they are
_MOST = 1 << 30  # bytes of all rows
_COLUMNS = {(name,): types for name, types in TOP.items()} | {
    (section, name): types for section, fields in FIELDS[SCHEMA_VERSION].items() for name, types in fields.items()
}


def write_parquet(records: Sequence[Record], path: str | Path) -> None:
    """Write records; the file appears whole or not at all."""
    pa, parquet = _arrow()
    columns = {
        ".".join(where): pa.array([_cell(_at(record, where), types) for record in records], _type(pa, types))
        for where, types in _COLUMNS.items()
    }
    rows = [record["result"]["metrics"] or {} for record in records]
    measured = dict.fromkeys((name, measure) for row in rows for name, values in row.items() for measure in values)
    for name, measure in measured:
        columns[f"test.{name}.{measure}"] = pa.array(
            [_cell((row.get(name) or {}).get(measure), (int,) if measure == "n" else (float,)) for row in rows],
            pa.int64() if measure == "n" else pa.float64(),
        )
    table = pa.table(columns)
    write_whole(Path(path), lambda part: parquet.write_table(table, part))


def read_parquet(path: str | Path) -> list[Record]:
    """The records of a file that `write_parquet` wrote.

    Raises:
        ValueError: a file that cannot be read or was written otherwise, or rows that are no records, each by number.
    """
    pa, parquet = _arrow()
    names = {".".join(where): (where, types) for where, types in _COLUMNS.items()}
    try:
        table = _table(pa, parquet, path)
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"{path}: expected a Parquet file, cannot read it: {error}") from None
    missing = [name for name in names if name not in table.column_names]
    if missing:
        raise ValueError(f"{path}: expected the columns of a record, {', '.join(missing[:5])} missing")
    # The order of fields is that of records.
    empty = dict.fromkeys(TOP) | dict.fromkeys(FIELDS[SCHEMA_VERSION])
    records: list[Record] = [empty | {section: {} for section in FIELDS[SCHEMA_VERSION]} for _ in range(table.num_rows)]
    for name, (where, types) in names.items():
        for record, value in zip(records, table[name].to_pylist(), strict=True):
            holder = record if len(where) == 1 else record[where[0]]
            holder[where[-1]] = json.loads(value) if _is_json(types) and value is not None else value
    problems = [
        f"{path}: row {number}: {problem}" for number, record in enumerate(records) for problem in problems_of(record)
    ]
    if problems:
        raise ValueError("expected a record in each row, got\n  " + "\n  ".join(problems[:20]))
    return records


def _table(pa: Any, parquet: Any, path: str | Path) -> Any:
    """The rows, some at a time: a file of a kilobyte may repeat one text a million times."""
    file = parquet.ParquetFile(path)
    parts, size = [], 0
    for part in file.iter_batches(batch_size=_ROWS):
        parts.append(part)
        size += part.nbytes
        if part.nbytes > _ROWS * MAX_BYTES or size > _MOST:
            raise ValueError(f"{path}: expected rows of at most {MAX_BYTES} bytes, {_MOST} in all, got more")
    return pa.Table.from_batches(parts, file.schema_arrow)


def _arrow() -> tuple[Any, Any]:
    owner = "seqmix leaderboard convert"
    return require("pyarrow", extra="board", owner=owner), require("pyarrow.parquet", extra="board", owner=owner)


def _at(record: Record, where: tuple[str, ...]) -> Any:
    return record[where[0]] if len(where) == 1 else record[where[0]][where[1]]


def _is_json(types: tuple[type, ...]) -> bool:
    return dict in types or list in types


def _cell(value: Any, types: tuple[type, ...]) -> Any:
    if value is None or (float not in types and not _is_json(types)):
        return value
    return float(value) if float in types else json.dumps(value, separators=(",", ":"))


def _type(pa: Any, types: tuple[type, ...]) -> Any:
    if bool in types:
        return pa.bool_()
    if float in types:
        return pa.float64()
    return pa.int64() if int in types else pa.string()
