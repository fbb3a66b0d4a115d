"""Runs as jobs of a cluster, through submitit: SLURM, or processes of this machine that stand in for it.

Every attempt at a run has a folder, named by both, that its job and the sweep share:

    job.json        cluster and number of the job
    lock            held by the job while it runs
    outcome.json    what came of it, written whole

Jobs outlive a sweep that is killed. The next sweep with the same folder takes them over: it waits for those that wait
or run, and records those that are over.
"""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from seqmix._extras import require
from seqmix._files import write_text_whole
from seqmix._posix import fcntl
from seqmix._suggest import unknown_name
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.sweep.outcome import POOLS, Outcome, last_lines, left_in, record_of, repro_facts, settings_for
from seqmix.leaderboard.sweep.plan import Run
from seqmix.leaderboard.sweep.worker import die_with_parent

__all__ = ["ClusterJobs", "execute"]

_DEFAULTS: dict[str, Any] = {"cluster": "slurm", "timeout_min": 120, "name": "seqmix"}


@dataclass(frozen=True)
class ClusterJobs:
    """Starts each run as a job of its own.

    Args:
        folder: for jobs, on a disk that all machines see.
        threads: cores of each run.
        parameters: of `submitit.AutoExecutor`: `cluster` (`slurm`, or `local` for processes of this machine),
            `timeout_min`, `mem_gb`, `gpus_per_node`, `slurm_partition`, ...

    Raises:
        ImportError: submitit is not installed.
        ValueError: a parameter that does not exist, with the nearest names, or a cluster that is not there.
    """

    folder: Path
    threads: int = 1
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            self.executor(Path(folder))
        self.folder.mkdir(parents=True, exist_ok=True)

    def executor(self, folder: Path) -> Any:
        """What submits a job whose files are in `folder`."""
        submitit = require("submitit", extra="board", owner="--submitit")
        parameters = _DEFAULTS | {"cpus_per_task": self.threads} | dict(self.parameters)
        cluster = parameters.pop("cluster")
        if cluster not in ("slurm", "local"):
            raise ValueError(f"--submitit: cluster must be slurm or local, got {cluster!r}")
        try:
            executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        except RuntimeError as error:
            raise ValueError(f"--submitit: cluster {cluster} cannot be used here: {error}") from None
        own = {f"{cluster}_{name}" for name in executor._executor._valid_parameters()}
        known = {"cluster", *executor._valid_parameters(), *own}
        for name in parameters:
            if name not in known:
                raise unknown_name("parameter of --submitit:", name, known)
        try:
            executor.update_parameters(**parameters)
        except (AssertionError, TypeError) as error:  # so says submitit that a value has the wrong type
            raise ValueError(f"--submitit: {error}") from None
        return executor

    def start(self, run: Run, attempt: int) -> "_ClusterJob":
        """Submit an attempt, or take over the job of a sweep that is gone."""
        folder = (self.folder / f"{run.id}-{attempt}").resolve()
        folder.mkdir(exist_ok=True)
        job = _ClusterJob(run, attempt, folder, self.threads)
        if not job.taken_over():
            # A sweep that is killed between these two lines has lost a job, which the lock keeps apart from the next.
            executor = self.executor(folder / "job")
            submitted = executor.submit(execute, str(folder), run.name, settings_for(run), self.threads)
            about = {"cluster": executor.cluster, "id": submitted.job_id, "logs": str(submitted.paths.folder)}
            write_text_whole(folder / "job.json", json.dumps(about))
            job.submitted = submitted
        return job

    def clean(self, recorded: Iterable[tuple[str, int]]) -> None:
        """Remove the folders of attempts that a sweep has recorded before it was killed."""
        for run, attempt in recorded:
            if (self.folder / f"{run}-{attempt}").is_dir():
                shutil.rmtree(self.folder / f"{run}-{attempt}", ignore_errors=True)

    def wait(self, seconds: float) -> None:
        """Until a job may have finished: nothing tells."""
        time.sleep(seconds)

    def close(self) -> None:
        """Nothing: jobs that go on are for the next sweep."""


@dataclass
class _ClusterJob:
    run: Run
    attempt: int
    folder: Path
    threads: int
    began: float = field(default_factory=time.monotonic)
    submitted: Any = None

    def taken_over(self) -> bool:
        """Whether there is a job for this folder already, one that waits, runs, or has left an outcome."""
        if (self.folder / "outcome.json").is_file():
            return True
        with suppress(OSError, ValueError):
            about = json.loads((self.folder / "job.json").read_text())
            submitit = require("submitit", extra="board", owner="--submitit")
            kind = {"slurm": submitit.SlurmJob, "local": submitit.LocalJob}[about["cluster"]]
            job = kind(folder=about["logs"], job_id=about["id"])
            if not self._over(job):
                self.submitted = job
                return True
        return False

    def _over(self, job: Any) -> bool:
        # A local job knows only processes that it has started itself.
        if getattr(job, "_process", job) is None:
            return not _is_submitit(int(job.job_id))
        return bool(job.done())

    def finished(self) -> bool:
        return self.submitted is None or self._over(self.submitted)

    def stop(self) -> None:
        """Cancel it; the next sweep submits it again."""
        (self.folder / "job.json").unlink(missing_ok=True)
        if self.submitted is not None:
            self.submitted.cancel(check=False)

    def record(self) -> Record:
        """The record of the finished run."""
        path = self.folder / "outcome.json"
        if path.is_file():
            outcome = Outcome(**json.loads(path.read_text()))
        else:
            logs = [self.submitted.paths.stderr, self.submitted.paths.stdout]
            how = f"job {self.submitted.job_id} ended without an outcome: {self.submitted.state}"
            outcome = Outcome(1, time.monotonic() - self.began, repro_facts(), log=last_lines(logs), how=how)
        return record_of(self.run, self.attempt, outcome, threads=self.threads, jobs=1)

    def clean(self) -> None:
        """Remove its folder: the record is on the disk."""
        shutil.rmtree(self.folder, ignore_errors=True)


def execute(folder: str, name: str, settings: dict[str, Any], threads: int) -> None:
    """What a job does: `seqmix fit` of these settings in a process of its own, and its outcome into the folder."""
    place = Path(folder)
    with (place / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # a job that its sweep has lost may be at it
        if (place / "outcome.json").is_file():
            return
        facts, began = repro_facts(), time.monotonic()
        environment = os.environ | dict.fromkeys(POOLS, str(threads))
        config = place / f"{name}.json"
        write_text_whole(config, json.dumps(settings))
        command = [sys.executable, "-m", "seqmix", "fit", f"--config={config}", f"--run_dir={place / 'run'}"]
        with (
            (place / "stdout").open("wb") as out,
            (place / "stderr").open("wb") as err,
            subprocess.Popen(command, stdout=out, stderr=err, env=environment, preexec_fn=die_with_parent) as run,
        ):
            status = run.wait()
        outcome = Outcome(status, time.monotonic() - began, facts, left_in(place / "run"))
        outcome.log = last_lines([place / "stderr", place / "stdout"])
        write_text_whole(place / "outcome.json", json.dumps(dataclasses.asdict(outcome)))


def _is_submitit(pid: int) -> bool:
    """Whether this process goes on and is one of submitit's."""
    try:
        return b"submitit" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
