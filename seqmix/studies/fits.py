"""Rows of a study: computed, a JSON line for each, or those of training runs.

A line has `study`, `asked` (arguments and seed), `measured` (numbers by name, null for what is not finite), `seconds`
of the processor, `repro`. What a file has is not computed again.
"""

import importlib
import json
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from seqmix._live_line import LiveLine, clock
from seqmix.leaderboard.sweep.outcome import repro_facts
from seqmix.studies.lines import appending, read_lines, stamped
from seqmix.studies.rules import Row
from seqmix.studies.runs import rows_of_runs
from seqmix.studies.study import Study

__all__ = ["FIELDS", "compute", "rows_of"]

FIELDS = {"study", "asked", "measured", "seconds", "repro"}


def compute(study: Study, store: Path, jobs: int = 1) -> int:
    """Add a line to `store` for every cell of the study that it has none of; returns how many were added."""
    known = {_key(line["asked"]) for line in read_lines(store, FIELDS)} if store.exists() else set()
    missing = [cell for cell in study.cells() if _key(cell) not in known]
    progress, begin = LiveLine(0.5, 30.0), time.monotonic()
    with appending(store) as append:
        for done, line in enumerate(_computed(study, missing, jobs), 1):
            append(line)
            if progress.due or done == len(missing):
                progress.show(f"{study.name}: {done} of {len(missing)} computed, {clock(time.monotonic() - begin)}")
    progress.clear()
    return len(missing)


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
    begin = time.process_time()  # of one thread: what a busy machine takes longer for costs no more
    measured = run(**cell)
    return {
        "study": study,
        "asked": cell,
        "measured": {name: float(value) if math.isfinite(value) else None for name, value in measured.items()},
        "seconds": round(time.process_time() - begin, 2),
        "repro": stamped(repro),
    }


def _key(asked: dict[str, Any]) -> str:
    return json.dumps(asked, sort_keys=True)


def rows_of(study: Study, store: Path) -> list[Row]:
    """A row for each computation or run of the study that `store` has: factors, seed and measures by name."""
    if not store.exists():
        return []
    if study.compute:
        asked = {_key(cell) for cell in study.cells()}
        return [
            {**line["asked"], **line["measured"], "seconds": line["seconds"]}
            for line in read_lines(store, FIELDS)
            if _key(line["asked"]) in asked
        ]
    return rows_of_runs(study, store)
