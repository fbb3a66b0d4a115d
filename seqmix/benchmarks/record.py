"""Results of `seqmix bench`: facts about a run, and JSON files written whole."""

import datetime
import json
import re
import shlex
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from seqmix._bounded import read_json
from seqmix._files import write_text_whole
from seqmix._machine import commit, machine, versions

SCHEMA = 1

Record = dict[str, Any]


def describe_run(bench: str, argv: Sequence[str], device: torch.device, settings: dict[str, Any]) -> Record:
    """Everything but the results: machine, versions, commit, date, command line."""
    return {
        "schema": SCHEMA,
        "bench": bench,
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join(["seqmix", "bench", *argv]),
        "device": device.type,
        "machine": machine(device),
        "versions": versions(),
        **commit(),
        "settings": settings,
        "rows": [],
    }


def reason_of(error: Exception) -> str:
    """Why there is no result: an error as a row keeps it."""
    return f"{type(error).__name__}: {error}"[:300]


def default_path(record: Record) -> Path:
    """benchmarks/results/<device>/<bench>-<date>.json below the current folder."""
    facts = record["machine"]
    device = re.sub(r"[^a-z0-9]+", "-", facts.get("accelerator", facts["processor"]).lower()).strip("-")
    stamp = re.sub(r"[^0-9T]", "", record["date"][:19])
    return Path("benchmarks", "results", device or record["device"], f"{record['bench']}-{stamp}.json")


def check_writable(path: Path) -> None:
    """Raise `ValueError` now rather than after minutes of measuring."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path.parent).close()
    except OSError as error:
        raise ValueError(f"--out must name a file that can be written, got {str(path)!r}: {error}") from None
    if path.is_dir():
        raise ValueError(f"--out must name a file, got the folder {str(path)!r}")


def save(path: Path, record: Record) -> None:
    """`record` as JSON, written whole; numbers that JSON does not have become null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text_whole(path, json.dumps(_finite(record), indent=1, allow_nan=False) + "\n")


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    if isinstance(value, float) and not abs(value) < float("inf"):
        return None
    return value


def load(path: Path) -> Record:
    """A saved record; `ValueError` if the file is not one."""
    try:
        record = read_json(path)
    except OSError as error:
        raise ValueError(f"FILE must be a result of seqmix bench, cannot read {str(path)!r}: {error}") from None
    except ValueError as error:
        raise ValueError(f"FILE must be a result of seqmix bench, {str(path)!r} is not JSON: {error}") from None
    if not isinstance(record, dict) or record.get("schema") != SCHEMA or "rows" not in record:
        got = record.get("schema") if isinstance(record, dict) else type(record).__name__
        raise ValueError(f"FILE must be a result of seqmix bench, schema {SCHEMA}, got {got!r} in {str(path)!r}")
    if not re.fullmatch(r"[a-z0-9]+", str(record.get("device"))):  # part of the names of sections and files
        raise ValueError(f"FILE must have letters and digits as its device, got {record.get('device')!r:.80}")
    return record
