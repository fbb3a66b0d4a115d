"""A record is run again, and what comes of it is compared with what it says.

On the same processor with the same torch, threads, device and commit every number of the result must be the same. Where
one of them differs, rounding does, and training makes more of it: then what must agree is what a reader goes by, test
and validation results within a tolerance, and the model's size and test data exactly.
"""

import json
import math
import tempfile
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqmix._trust import write_inside
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.records.store import latest
from seqmix.leaderboard.sweep.local import COMMAND, LocalProcesses, repro_facts
from seqmix.leaderboard.sweep.plan import Place, Run, plan_settings
from seqmix.leaderboard.sweep.worker import ALONE
from seqmix.training.config.files import canonical
from seqmix.training.foreign import check_settings

__all__ = [
    "TOLERANCE",
    "Difference",
    "circumstances_that_differ",
    "differences",
    "find_record",
    "planned",
    "rerun",
    "table",
]

TOLERANCE = 0.05  # of accuracies, and relative of losses, bits and perplexities
_POLL = 0.1  # seconds
# What the same numbers need to be the same; a commit with changes is none.
_CIRCUMSTANCES = ("processor", "torch", "python", "commit", "dirty")
_EXACT = (
    *(f"identity.{name}" for name in ("task", "task_version", "mixer", "n_layers", "d_model", "data_seed")),
    *(f"size.{name}" for name in ("params_total", "params_non_embedding", "params_mixer", "state_size")),
    *("status", "result.metric", "result.chance", "result.train_length", "result.diverged"),
)
# Where everything is the same, these are, too.
_SAME = ("training.steps", "training.tokens", "result.final_length", "result.restarts", "result.curve")


@dataclass(frozen=True)
class Difference:
    """A field that does not say again what the record says."""

    field: str
    recorded: Any
    again: Any


def find_record(records: Sequence[Record], id: str) -> Record:
    """The last attempt of the run with this id, or with the only id that begins so.

    Raises:
        ValueError: no such run, or several.
    """
    found = [record for record in latest(records) if record["id"].startswith(id)]
    if len(found) != 1 or len(id) < 4:
        near = ", ".join(record["id"] for record in found[:4])
        raise ValueError(
            f"ID: expected the id of one run, or its first 4 digits and more, got {id!r}, which is "
            + (f"the beginning of {len(found)}: {near}" if found else f"none of {len(latest(records))} runs")
        )
    return found[0]


def rerun(record: Record, *, trust: Collection[str] = ()) -> Record:
    """A new record of the same run: the same contents of the config, seed and number of threads.

    The run may import what is seqmix's own and the modules of `trust`; without any nothing of the folder one is in.

    Raises:
        ValueError: settings that are not those of its id, or that a record of somebody else must not have.
    """
    command = COMMAND if trust else (*COMMAND, ALONE)
    with tempfile.TemporaryDirectory(prefix="seqmix-rerun-") as name:
        folder = Path(name)
        runner = LocalProcesses(folder, record["cost"]["threads"] or 1, 1, command, list(trust))
        with closing(runner):
            job = runner.start(planned(record, folder, trust=trust), record["attempt"])
            try:
                while not job.finished():
                    time.sleep(_POLL)
            except BaseException:
                job.stop()
                raise
            return job.record()


def planned(record: Record, folder: Path, *, trust: Iterable[str] = ()) -> Run:
    """The run of a record, with its config in a file of `folder`; `ValueError` if that is another run."""
    identity, where = record["identity"], f"record {record['id']}: identity"
    check_settings(identity["settings"], trust, f"{where}.settings")
    name = f"{identity['config']}.json"
    place = Place(board=identity["board"], entry=identity["entry"], column=identity["column"])
    run = plan_settings(str(folder / name), (), canonical(identity["settings"]), identity["seed"], **place)
    if run.id != record["id"]:
        raise ValueError(f"record {record['id']}: its settings, seed and place on a board are those of {run.id}")
    # JSON is YAML in which text is never taken for a number.
    write_inside(folder, name, json.dumps(identity["settings"]), f"{where}.config")
    return run


def circumstances_that_differ(record: Record, again: Record | None = None) -> list[str]:
    """What differs between a record and another one, or a run that would be made here, as `torch: 2.9 there, 2.13`."""
    repro = repro_facts() if again is None else again["repro"]
    found = [
        f"{name}: {record['repro'][name]} there, {repro[name]} here"
        for name in _CIRCUMSTANCES
        if record["repro"][name] != repro[name]
    ]
    if record["repro"]["dirty"]:
        found.append("there it was not the commit alone")
    if again is not None:
        found += [
            f"{name}: {record['cost'][name]} there, {again['cost'][name]} here"
            for name in ("device", "threads")
            if record["cost"][name] != again["cost"][name]
        ]
    return found


def differences(record: Record, again: Record, tolerance: float = 0.0) -> list[Difference]:
    """Fields of `again` that do not say what `record` says.

    With a tolerance of 0 every number of the result is compared. With more the numbers that decide are: accuracies may
    differ by it, losses, bits and perplexities by this share of themselves.
    """
    found = [_difference(record, again, field) for field in _EXACT + (() if tolerance else _SAME)]
    sets = dict.fromkeys([*(record["result"]["metrics"] or {}), *(again["result"]["metrics"] or {})])
    for name in sets:
        rows = [(one["result"]["metrics"] or {}).get(name) or {} for one in (record, again)]
        for measure in dict.fromkeys(key for row in rows for key in row):
            one, other = (row.get(measure) for row in rows)
            if not _close(one, other, measure, tolerance):
                found.append(Difference(f"result.metrics.{name}.{measure}", one, other))
    points = [one["result"]["validation"] or {} for one in (record, again)]
    if all(points):  # records of before have no such point
        for measure in ("accuracy", "bpb", "loss"):
            one, other = (point.get(measure) for point in points)
            if not _close(one, other, measure, tolerance):
                found.append(Difference(f"result.validation.{measure}", one, other))
    return [difference for difference in found if difference is not None]


def _difference(record: Record, again: Record, field: str) -> Difference | None:
    recorded, now = _at(record, field), _at(again, field)
    return None if recorded == now else Difference(field, recorded, now)


def _at(record: Record, field: str) -> Any:
    section, dot, name = field.partition(".")
    return record[section][name] if dot else record[section]


def _close(one: Any, other: Any, measure: str, tolerance: float) -> bool:
    if not tolerance or one is None or other is None or measure == "n":
        return bool(one == other)
    scale = max(abs(one), abs(other)) if measure in ("loss", "bpb", "ppl") else 1.0
    # A loss of nearly nothing has no digits that mean anything.
    return math.isclose(one, other, rel_tol=0.0, abs_tol=max(tolerance * scale, 1e-3 if measure == "loss" else 0.0))


def table(found: Sequence[Difference]) -> Iterator[str]:
    """Lines: field, what the record says, what it was again."""
    rows = [("field", "record", "again"), *((d.field, _short(d.recorded), _short(d.again)) for d in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()


def _short(value: Any) -> str:
    text = "null" if value is None else json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
