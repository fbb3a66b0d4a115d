"""Does every run of a plan that a file of records does not have yet."""

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

from seqmix._live_line import clock
from seqmix._measures import named
from seqmix._signals import handled_signals
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.records.store import RunStore
from seqmix.leaderboard.sweep.claims import Claims
from seqmix.leaderboard.sweep.plan import Run
from seqmix.leaderboard.sweep.progress import Progress
from seqmix.leaderboard.sweep.results import Results

__all__ = ["Job", "Plan", "Runner", "sweep"]

_ATTEMPTS = 2
_POLL = 0.5  # seconds between looks at what has ended, where nothing wakes the sweep
_PATIENCE = 5.0  # seconds until a run of another sweep is asked for again


class Job(Protocol):
    """A run that was started; `record` once it has finished, `clean` once that is kept, `stop` if it is not to."""

    run: Run
    attempt: int
    began: float

    def finished(self) -> bool: ...

    def record(self) -> Record: ...

    def clean(self) -> None: ...

    def stop(self) -> None: ...


class Runner(Protocol):
    """What starts runs: as processes of this machine, or as jobs of a cluster."""

    def start(self, run: Run, attempt: int) -> Job: ...

    def clean(self, recorded: Iterable[tuple[str, int]]) -> None:
        """Remove what a sweep that is gone has left of attempts (id, number) that were recorded."""
        ...

    def wait(self, seconds: float) -> None:
        """Until a job may have finished, but at most so long."""
        ...


class Plan(Protocol):
    """What is to be done, which may depend on what came of what was done."""

    @property
    def total(self) -> int:
        """Runs in all."""
        ...

    def runs(self, settled: Mapping[str, Record]) -> Sequence[Run]:
        """The runs known now, first things first; `settled` has the last record of each run that is over, by id."""
        ...

    def later(self, settled: Mapping[str, Record]) -> Sequence[str]:
        """Kinds of the runs that will be known when others are over."""
        ...


@dataclass(frozen=True)
class _Fixed:
    """A list of runs that are known from the start."""

    known: tuple[Run, ...]

    @property
    def total(self) -> int:
        return len(self.known)

    def runs(self, settled: Mapping[str, Record]) -> Sequence[Run]:
        return self.known

    def later(self, settled: Mapping[str, Record]) -> Sequence[str]:
        return ()


def sweep(
    plan: Sequence[Run] | Plan, store: RunStore, runner: Runner, *, jobs: int = 1, retry_failed: bool = False
) -> int:
    """Do the runs that `store` has no finished record of, `jobs` at a time; returns how many have failed for good.

    Each result is appended as it comes. A run that failed is recorded, and tried once more unless its settings cannot
    be; one that another sweep on this file is doing is left to it. Ctrl-C and SIGTERM stop it with a
    `KeyboardInterrupt`: what has finished is recorded, what is running is stopped, and the next sweep starts it again.

    Args:
        plan: a list of runs, or a plan that makes runs of results.
        store: where records are and go.
        runner: what starts runs.
        jobs: runs at a time.
        retry_failed: give runs that failed for good in earlier sweeps two more attempts.
    """
    plan = _Fixed(tuple(plan)) if isinstance(plan, Sequence) else plan
    return _Sweep(plan, store, runner, jobs, retry_failed).run()


class _Sweep:
    def __init__(self, plan: Plan, store: RunStore, runner: Runner, jobs: int, retry_failed: bool) -> None:
        self.plan, self.store, self.runner, self.jobs = plan, store, runner, jobs
        self.results = Results(store, _ATTEMPTS, retry_failed)
        self.claims = Claims(store.path)
        self.progress = Progress(plan.total, jobs)
        self.active: list[Job] = []
        self.waiting: list[Run] = []
        self.elsewhere: dict[str, float] = {}  # runs of other sweeps, and when they were last seen to be
        self._asked_again, self._learned = False, 0

    def run(self) -> int:
        try:
            with _stop_signals() as stopped:
                self._look()
                self.runner.clean((record["id"], record["attempt"]) for record in self.store.records)
                while True:
                    self._start(stopped)
                    self._collect()
                    if stopped:
                        raise KeyboardInterrupt
                    if not self._go_on():
                        break
                    self._show()
                    if self.active:
                        self.runner.wait(_POLL)
        finally:
            for job in self.active:
                job.stop()
            self.claims.close()
            left = sum(run not in self.results.settled for run in self.elsewhere)
            self.progress.tell(self.progress.text(None) + (f", {left} left to another sweep" if left else ""))
        return self.progress.failed

    def _look(self) -> None:
        """See what has come, from this sweep or another, and what there is to do now."""
        settled = self.results.update()
        known, running = dict.fromkeys(self.plan.runs(settled)), {job.run.id for job in self.active}
        self.waiting = [run for run in known if run.id not in settled and run.id not in running]
        status = [settled[run.id]["status"] for run in known if run.id in settled]
        self.progress.total = self.plan.total
        self.progress.failed = status.count("failed")
        self.progress.done = len(status) - self.progress.failed
        kinds = {run.id: run.kind for run in known}
        for record in self.store.records[self._learned :]:
            if record["status"] == "ok":
                kind = kinds.get(record["id"], record["identity"]["config"])
                self.progress.learn(kind, record["cost"]["wall_seconds"])
        self._learned = len(self.store.records)

    def _start(self, stopped: Sequence[int]) -> None:
        while len(self.active) < self.jobs and not stopped:
            run = next(filter(self._free, self.waiting), None)
            if run is None:
                return
            if not self.claims.take(run.id):
                self.elsewhere[run.id] = time.monotonic()
                continue
            self.elsewhere.pop(run.id, None)
            # Another sweep may have done it before this one claimed it.
            if run.id in self.results.update():
                self.claims.drop(run.id)
                self._look()
                continue
            self.waiting.remove(run)
            self._asked_again = False
            self.active.append(self.runner.start(run, self.results.attempts(run.id) + 1))

    def _collect(self) -> None:
        for job in [job for job in self.active if job.finished()]:
            self.active.remove(job)
            record = job.record()
            self.store.append(record)
            job.clean()  # what it left is the only copy until the record is on the disk
            self.claims.drop(job.run.id)
            self._look()
            self._tell(job, record)

    def _free(self, run: Run) -> bool:
        return time.monotonic() - self.elsewhere.get(run.id, -math.inf) > _PATIENCE

    def _go_on(self) -> bool:
        """Whether there is anything to wait for."""
        if self.active or any(map(self._free, self.waiting)):
            return True
        held = [run for run in self.elsewhere if run not in self.results.settled]
        if held and self.plan.later(self.results.settled):
            time.sleep(_PATIENCE / 10)
            self._look()
            return True
        if held and not self._asked_again:  # the sweep that had them may be gone
            self._asked_again, self.elsewhere = True, dict.fromkeys(held, -math.inf)
            return True
        return False

    def _show(self) -> None:
        now = time.monotonic()
        kinds = [*(run.kind for run in self.waiting), *self.plan.later(self.results.settled)]
        self.progress.show(kinds, [(job.run.kind, str(job.run), now - job.began) for job in self.active])

    def _tell(self, job: Job, record: Record) -> None:
        progress = self.progress
        if record["status"] == "failed":
            again = "no more attempts" if job.run.id in self.results.settled else "trying again"
            progress.tell(f"{job.run}: failed, {again}: {record['reason'].strip().splitlines()[-1]}")
            return
        result = record["result"]
        short = named(result["metric"]).key
        rows = [f"{row[short]:.3f} at {length}" for length, row in result["metrics"].items() if row[short] is not None]
        what = "diverged" if result["diverged"] else ", ".join(rows)
        seconds = clock(record["cost"]["wall_seconds"])
        progress.tell(f"[{progress.done}/{progress.total}] {job.run}: {what}; {seconds}")


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted in the list, so that they never come between a run and its record.

    A second one acts at once.
    """
    noted: list[int] = []

    def note(number: int) -> None:
        noted.append(number)
        restore()

    with handled_signals(note) as restore:
        yield noted
