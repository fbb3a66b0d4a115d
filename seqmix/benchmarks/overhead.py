"""`seqmix bench sweep`: what a sweep takes beyond the runs that it is made of.

Runs of parity that train for a given time, `jobs` of them side by side. A run's own time is that of its process, from
the fork to its end, test included; what is measured is how much longer the sweep takes than those times, shared out
evenly among the jobs: importing everything once, noticing that a run has ended, recording it, starting the next, and
the last run that ends alone.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from seqmix.leaderboard.records.schema import Record
    from seqmix.leaderboard.sweep.local import LocalProcesses
    from seqmix.leaderboard.sweep.loop import Job
    from seqmix.leaderboard.sweep.plan import Run

__all__ = ["run_sweep"]

Row = dict[str, Any]

_SETTINGS = (
    "trainer.max_steps=1000000000",
    "trainer.val_check_interval=1000000000",
    "data.eval_lengths=[40]",
    "data.eval_size=64",
)


def run_sweep(folder: Path, runs: int, jobs: int, seconds: int) -> Row:
    """Do `runs` runs of `seconds` seconds of training each in `folder`, `jobs` at a time, and time it all.

    Raises:
        RuntimeError: a run has failed.
    """
    from seqmix.leaderboard.records.store import RunStore
    from seqmix.leaderboard.sweep.local import LocalProcesses
    from seqmix.leaderboard.sweep.loop import sweep
    from seqmix.leaderboard.sweep.plan import plan_runs

    plan = plan_runs(["parity"], range(runs), None, [*_SETTINGS, f"trainer.max_time={{seconds: {seconds}}}"])
    store, began = RunStore(folder / "runs.jsonl"), time.monotonic()
    watched = _Watched(LocalProcesses(folder / "runs", 1, jobs))
    try:
        failed = sweep(plan, store, watched, jobs=jobs)
    finally:
        watched.runner.close()
    wall = time.monotonic() - began
    if failed:
        reason = next(record["reason"] for record in store.records if record["status"] == "failed")
        raise RuntimeError(f"{failed} of {runs} runs have failed, the first one: {reason}")
    row = summary([record["cost"]["wall_seconds"] for record in store.records], watched.lags(), wall, jobs)
    return row | {
        "end_seconds": began + wall - max(job.ended for job in watched.jobs),
        "settings": {"runs": runs, "jobs": jobs, "seconds": seconds},
    }


def summary(own: list[float], lags: list[float], wall: float, jobs: int) -> Row:
    """The row of a sweep from seconds: of each run itself, of each beyond that in order of their starts, and of all."""
    return {
        "wall_seconds": wall,
        "own_seconds": sum(own),
        "overhead": wall * jobs / sum(own) - 1,
        "start_seconds": min(lags[:jobs]),
        "lag_seconds": statistics.median(lags[jobs:]) if lags[jobs:] else None,
    }


class _Watched:
    """A runner whose jobs note when they were asked for and when they were seen to have ended."""

    def __init__(self, runner: "LocalProcesses") -> None:
        self.runner = runner
        self.jobs: list[_WatchedJob] = []

    def start(self, run: "Run", attempt: int) -> "_WatchedJob":
        asked = time.monotonic()
        self.jobs.append(_WatchedJob(self.runner.start(run, attempt), asked))
        return self.jobs[-1]

    def clean(self, recorded: "Iterable[tuple[str, int]]") -> None:
        self.runner.clean(recorded)

    def wait(self, seconds: float) -> None:
        self.runner.wait(seconds)

    def lags(self) -> list[float]:
        return [job.ended - job.asked - job.own for job in self.jobs]


@dataclass
class _WatchedJob:
    job: "Job"
    asked: float
    ended: float = 0.0
    own: float = 0.0

    def __post_init__(self) -> None:
        self.run, self.attempt, self.began = self.job.run, self.job.attempt, self.job.began

    def finished(self) -> bool:
        return self.job.finished()

    def clean(self) -> None:
        self.job.clean()

    def stop(self) -> None:
        self.job.stop()

    def record(self) -> "Record":
        record = self.job.record()
        self.ended, self.own = time.monotonic(), record["cost"]["wall_seconds"]
        return record
