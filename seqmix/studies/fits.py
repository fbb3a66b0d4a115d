"""Rows of a study: computed, a JSON line for each, or those of training runs.

A line has `study`, `asked` (arguments and seed), `measured` (numbers by name, null for what is not finite), `seconds`,
`repro`. What a file has is not computed again.
"""

import datetime
import importlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TextIO

import torch

from seqmix._bounded import MAX_JSON, read_text
from seqmix._live_line import LiveLine, clock
from seqmix._posix import fcntl
from seqmix.leaderboard.sweep.outcome import repro_facts
from seqmix.studies.rules import Row
from seqmix.studies.runs import rows_of_runs
from seqmix.studies.study import Study

__all__ = ["compute", "read_lines", "rows_of"]

_FIELDS = {"study", "asked", "measured", "seconds", "repro"}


def compute(study: Study, store: Path, jobs: int = 1) -> int:
    """Add a line to `store` for every cell of the study that it has none of; returns how many were added."""
    known = set()
    if store.exists():
        known = {_key(line["asked"]) for line in read_lines(store)}
        with store.open("rb+") as file:  # half a line, of a run that was killed, is written anew
            file.truncate(file.read().rfind(b"\n") + 1)
    missing = [cell for cell in study.cells() if _key(cell) not in known]
    store.parent.mkdir(parents=True, exist_ok=True)
    progress, begin = LiveLine(0.5, 30.0), time.monotonic()
    with store.open("a", encoding="utf-8") as file:
        _hold(file, store)
        for done, line in enumerate(_computed(study, missing, jobs), 1):
            file.write(json.dumps(line, allow_nan=False) + "\n")
            file.flush()
            if progress.due or done == len(missing):
                progress.show(f"{study.name}: {done} of {len(missing)} computed, {clock(time.monotonic() - begin)}")
    progress.clear()
    return len(missing)


def _hold(file: TextIO, store: Path) -> None:
    """One run of a study writes into a file at a time."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ValueError(f"--store: another run of a study writes into {store}") from None


def _computed(study: Study, cells: Sequence[dict[str, Any]], jobs: int) -> Iterator[dict[str, Any]]:
    repro = repro_facts()
    if jobs == 1 or len(cells) < 2:
        before = torch.get_num_threads()
        _one_thread()
        try:
            yield from (_line(study.name, study.compute, cell, repro) for cell in cells)
        finally:
            torch.set_num_threads(before)
        return
    # Spawned, since threads of a parent do not survive a fork.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn"), initializer=_one_thread) as pool:
        started: list[Future[dict[str, Any]]] = [
            pool.submit(_line, study.name, study.compute, cell, repro) for cell in cells
        ]
        try:
            yield from (each.result() for each in as_completed(started))
        finally:
            pool.shutdown(cancel_futures=True)


def _one_thread() -> None:
    torch.set_num_threads(1)


def _line(study: str, computation: str, cell: dict[str, Any], repro: dict[str, Any]) -> dict[str, Any]:
    run = importlib.import_module(f"seqmix.studies.computations.{computation}").run
    begin = time.perf_counter()
    measured = run(**cell)
    return {
        "study": study,
        "asked": cell,
        "measured": {name: float(value) if math.isfinite(value) else None for name, value in measured.items()},
        "seconds": round(time.perf_counter() - begin, 2),
        "repro": repro | {"utc": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")},
    }


def _key(asked: dict[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a file of computations; one that is none is a `ValueError` that names it.

    A last line without its end, which a run that was killed leaves behind, is left out.
    """
    lines = []
    *whole, _ = read_text(path, MAX_JSON).split("\n")
    for number, text in enumerate(whole, 1):
        try:
            line = json.loads(text)
        except ValueError as error:
            raise ValueError(f"{path}:{number}: not JSON: {error}") from None
        if not isinstance(line, dict) or set(line) != _FIELDS:
            raise ValueError(f"{path}:{number}: expected the fields {', '.join(sorted(_FIELDS))}, got others")
        lines.append(line)
    return lines


def rows_of(study: Study, store: Path) -> list[Row]:
    """A row for each computation or run of the study that `store` has: factors, seed and measures by name."""
    if not store.exists():
        return []
    if study.compute:
        asked = {_key(cell) for cell in study.cells()}
        return [
            {**line["asked"], **line["measured"], "seconds": line["seconds"]}
            for line in read_lines(store)
            if _key(line["asked"]) in asked
        ]
    return rows_of_runs(study, store)
