"""From what a run left behind to its record, whoever started it."""

import json
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqmix.leaderboard.records.schema import SCHEMA_VERSION, Record, config_hash, empty_record
from seqmix.leaderboard.sweep.plan import Run
from seqmix.training.config.files import Config, merge

__all__ = [
    "POOLS",
    "Outcome",
    "has_wrong_settings",
    "last_lines",
    "left_in",
    "record_of",
    "repro_facts",
    "settings_for",
]

_RECORDER = {"class_path": "seqmix.leaderboard.sweep.recorder.RunRecorder"}
# What thread pools read when a process starts.
POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass
class Outcome:
    """What is known of a run that is over.

    Attributes:
        status: exit status, or minus the signal that ended it.
        seconds: by the wall clock.
        facts: `repro_facts` of where it ran.
        results: what `RunRecorder` has left; empty if nothing.
        log: last lines of what it said.
        how: how it ended, where that is neither an exit nor a signal.
    """

    status: int
    seconds: float
    facts: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)
    log: list[str] = field(default_factory=list)
    how: str | None = None


def settings_for(run: Run) -> Config:
    """What `seqmix fit` is handed for a run: its settings, and that it leaves results instead of logs."""
    quiet = merge(run.settings, {"trainer": {"logger": False}, "accuracy_table": {"figure": False}})
    callbacks = [*(quiet["trainer"].get("callbacks") or []), _RECORDER]
    return merge(quiet, {"trainer": {"callbacks": callbacks}})


def left_in(folder: Path) -> dict[str, Any]:
    """What the recorder has left in the folder of a run; empty if nothing."""
    with suppress(OSError, ValueError):
        return json.loads((folder / "results.json").read_text())
    return {}


def last_lines(logs: Iterable[Path]) -> list[str]:
    """The last lines of the first of these files that says anything."""
    tails = (path.read_text(errors="replace").strip().splitlines()[-5:] for path in logs if path.is_file())
    return [line[-500:] for line in next(filter(None, tails), [])]


def record_of(run: Run, attempt: int, outcome: Outcome, *, threads: int, jobs: int) -> Record:
    """The record of one attempt at a run."""
    record = empty_record() | {"schema_version": SCHEMA_VERSION, "id": run.id, "attempt": attempt}
    results = outcome.results
    result = results.get("result") or {}
    if result.get("diverged") or (outcome.status == 0 and result.get("metrics")):
        record |= {"status": "ok", "reason": results["reason"]}
        for section in ("identity", "size", "training", "result", "cost"):
            record[section] |= results[section]
        _say_checkpoint(record, run.settings.get("test_after_fit", "last"))
    else:
        record |= {"status": "failed", "reason": "\n".join([_ended(outcome), *outcome.log])}
        record["identity"] |= _named(run.settings) | (results.get("identity") or {})
    record["identity"] |= {"seed": run.seed, "config": run.name, "overrides": list(run.overrides)}
    record["identity"] |= {"settings": run.settings, "config_hash": config_hash(run.settings), "split": "test"}
    record["identity"] |= {"board": run.board, "entry": run.entry, "column": run.column}
    record["cost"] |= {"wall_seconds": round(outcome.seconds, 3), "threads": threads, "jobs": jobs}
    record["repro"] |= outcome.facts | {"command": run.command}
    record["repro"] |= {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    return record


def _ended(outcome: Outcome) -> str:
    if outcome.how is not None:
        return outcome.how
    if outcome.status < 0:
        return f"killed by {signal.Signals(-outcome.status).name}"
    return _exited(outcome.status)


def _exited(status: int) -> str:
    return f"exit status {status}"


def has_wrong_settings(record: Record) -> bool:
    """Whether this attempt failed at its settings, which cannot be the next time either."""
    return record["status"] == "failed" and record["reason"].partition("\n")[0] == _exited(2)


def _say_checkpoint(record: Record, which: str) -> None:
    # Which weights speak for the run; the recorder does not know the command line.
    curve, best = record["result"]["curve"], record["result"]["best_step"]
    if best is None:
        which = "last"  # what was never validated has no best weights
    if which == "best":
        curve = [point for point in curve if point["step"] == best]
    record["training"] |= {"checkpoint": which, "checkpoint_split": "validation" if which == "best" else None}
    record["result"]["validation"] = curve[-1] if curve else None


def _named(settings: dict[str, Any]) -> dict[str, Any]:
    # A run that failed early has not said what it is; its config does.
    found: dict[str, Any] = {}
    for kind, key in (("task", "data"), ("mixer", "mixer")):
        entry = settings.get(key)
        entry = {"name": entry} if isinstance(entry, str) else entry
        if isinstance(entry, dict) and isinstance(entry.get("name"), str):
            found[kind] = entry["name"]
            found[f"{kind}_kwargs"] = {name: value for name, value in entry.items() if name != "name"}
    return found


def repro_facts() -> dict[str, Any]:
    """What a record keeps of this machine and checkout: versions, commit, platform, processor."""
    import torch

    from seqmix._machine import commit, machine, versions

    found, here = versions(), machine(torch.device("cpu"))
    return {
        "seqmix": found["seqmix"],
        "torch": found["torch"],
        "python": found["python"],
        **commit(),
        "platform": here["os"],
        "processor": here["processor"],
    }
