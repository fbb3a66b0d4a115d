"""Does every run of a plan that a file of records does not have yet."""

import signal
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

from seqmix.leaderboard.claims import Claims
from seqmix.leaderboard.plan import Run
from seqmix.leaderboard.progress import Progress, clock
from seqmix.leaderboard.runs import RunStore
from seqmix.leaderboard.schema import Record
from seqmix.leaderboard.statistics import MEASURES

__all__ = ["Job", "Runner", "sweep"]

_ATTEMPTS = 2
_POLL = 0.1  # seconds


class Job(Protocol):
    """A run that was started; `record` once it has finished, `stop` if it is not to."""

    run: Run
    attempt: int
    began: float

    def finished(self) -> bool: ...

    def record(self) -> Record: ...

    def stop(self) -> None: ...


class Runner(Protocol):
    """What starts runs: processes of this machine, one for each; workers that stay, or a cluster, are others."""

    def start(self, run: Run, attempt: int) -> Job: ...


def sweep(runs: Sequence[Run], store: RunStore, runner: Runner, *, jobs: int = 1, retry_failed: bool = False) -> int:
    """Do the runs that `store` has no finished record of, `jobs` at a time; returns how many have failed for good.

    Each result is appended as it comes. A run that failed is recorded, and tried once more; one that another sweep on
    this file is doing is left to it. Ctrl-C and SIGTERM stop it with a `KeyboardInterrupt`: what has finished is
    recorded, what is running is stopped, and the next sweep starts it again.

    Args:
        runs: the plan.
        store: where records are and go.
        runner: what starts runs.
        jobs: runs at a time.
        retry_failed: give runs that failed for good in earlier sweeps two more attempts.
    """
    earlier = _attempts(store.refresh())
    limits = {run.id: _ATTEMPTS + (len(earlier.get(run.id, ())) if retry_failed else 0) for run in runs}
    progress = Progress(len(runs), jobs)
    for record in store.records:
        if record["status"] == "ok":
            progress.learn(record["identity"]["config"], record["cost"]["wall_seconds"])
    waiting, active, elsewhere = deque[Run](), list[Job](), 0
    for run in runs:
        if not _settled(earlier.get(run.id, []), limits[run.id], progress):
            waiting.append(run)
    claims = Claims(store.path)
    try:
        with _stop_signals() as stopped:
            while waiting or active:
                while waiting and len(active) < jobs and not stopped:
                    run = waiting.popleft()
                    if not claims.take(run.id):
                        elsewhere += 1
                        continue
                    # Another sweep may have done it before this one claimed it.
                    tried = _attempts(store.refresh()).get(run.id, [])
                    if _settled(tried, limits[run.id], progress):
                        claims.drop(run.id)
                    else:
                        active.append(runner.start(run, len(tried) + 1))
                for job in [job for job in active if job.finished()]:
                    active.remove(job)
                    if _finish(job, store, progress, limits[job.run.id]):
                        waiting.appendleft(job.run)
                    claims.drop(job.run.id)
                if stopped:
                    raise KeyboardInterrupt
                now = time.monotonic()
                progress.show([run.name for run in waiting], [(j.run.name, str(j.run), now - j.began) for j in active])
                if active:
                    time.sleep(_POLL)
    finally:
        for job in active:
            job.stop()
        claims.close()
        progress.tell(progress.text(None) + (f", {elsewhere} left to another sweep" if elsewhere else ""))
    return progress.failed


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Ctrl-C and SIGTERM are noted in the list, so that they never come between a run and its record.

    A second one acts at once.
    """
    noted: list[int] = []
    previous: dict[int, Any] = {}

    def restore() -> None:
        while previous:
            signal.signal(*previous.popitem())

    def note(number: int, frame: Any) -> None:
        noted.append(number)
        restore()

    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def _attempts(records: Sequence[Record]) -> dict[str, list[str]]:
    status: dict[str, list[str]] = {}
    for record in records:
        status.setdefault(record["id"], []).append(record["status"])
    return status


def _settled(tried: Sequence[str], limit: int, progress: Progress) -> bool:
    """Whether a run with these attempts is done or has failed for good; counts it if so."""
    done = "ok" in tried
    failed = not done and len(tried) >= limit
    progress.done += done
    progress.failed += failed
    return done or failed


def _finish(job: Job, store: RunStore, progress: Progress, limit: int) -> bool:
    """Records a finished job; whether it is to be tried again."""
    record = job.record()
    store.append(record)
    seconds = record["cost"]["wall_seconds"]
    if record["status"] == "failed":
        again = job.attempt < limit
        progress.failed += not again
        reason = record["reason"].strip().splitlines()[-1]
        progress.tell(f"{job.run}: failed, {'trying again' if again else 'no more attempts'}: {reason}")
        return again
    progress.done += 1
    progress.learn(job.run.name, seconds)
    result = record["result"]
    short = MEASURES[result["metric"]]
    rows = [f"{row[short]:.3f} at {length}" for length, row in result["metrics"].items() if row[short] is not None]
    what = "diverged" if result["diverged"] else ", ".join(rows)
    progress.tell(f"[{progress.done}/{progress.total}] {job.run}: {what}; {clock(seconds)}")
    return False
