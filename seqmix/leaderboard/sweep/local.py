"""Runs as processes of this machine, forked from one that has imported everything."""

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import seqmix
from seqmix._posix import fcntl
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.sweep.outcome import POOLS, Outcome, last_lines, left_in, record_of, repro_facts, settings_for
from seqmix.leaderboard.sweep.plan import Run

__all__ = ["COMMAND", "LocalProcesses", "repro_facts"]

# Without the folder one is in at the front of the path: what lies there is not taken for what is installed.
COMMAND = (sys.executable, "-P", "-m", "seqmix.commands.worker")


class _Server:
    """The other end of `worker.serve`; started again when it has died."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str]) -> None:
        self.command, self.log, self.environment = list(command), log, environment
        self.process: subprocess.Popen[bytes] | None = None
        self.facts: dict[str, Any] = {}  # of the code that it has imported
        self.status: dict[int, int | None] = {}  # of every run; None while it goes on
        self._rest = b""

    def start(self, what: dict[str, Any], folder: Path, hold: tuple[str, str]) -> int:
        """Fork a run; its number. `what` is what the worker's `fit` is told of it."""
        self._read()
        if self.process is None:
            self.facts = repro_facts()
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    self.command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    env=self.environment,
                    start_new_session=True,  # Ctrl-C is for the sweep alone
                )
            assert self.process.stdout is not None
            os.set_blocking(self.process.stdout.fileno(), False)
        number = len(self.status)
        self.status[number] = None
        order = {"start": number, "fit": what, "folder": str(folder), "hold": hold, "facts": self.facts}
        self._tell(order)
        return number

    def wait(self, seconds: float) -> None:
        """Until something has ended, but at most so long."""
        if self.process is None or self.process.stdout is None:
            time.sleep(seconds)
        else:
            select.select([self.process.stdout], [], [], seconds)

    def poll(self, number: int) -> int | None:
        """Exit status of a run, minus the signal that ended it; None while it goes on."""
        if self.status[number] is None:
            self._read()
        return self.status[number]

    def stop(self, number: int) -> None:
        """Kill a run and wait until it is gone."""
        self._tell({"stop": number})
        while self.poll(number) is None:
            time.sleep(0.01)

    def close(self) -> None:
        """Kill what goes on, and the server."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):
                self.process.stdin.close()
            self.process.wait()
            self._read()

    def _tell(self, order: dict[str, Any]) -> None:
        if self.process is not None and self.process.stdin is not None:
            with suppress(BrokenPipeError):  # it has died, which `_read` finds out
                self.process.stdin.write(json.dumps(order).encode() + b"\n")
                self.process.stdin.flush()

    def _read(self) -> None:
        if self.process is None or self.process.stdout is None:
            return
        died = self.process.poll()
        self._rest += self.process.stdout.read() or b""
        *lines, self._rest = self._rest.split(b"\n")
        for line in lines:
            answer = json.loads(line)
            self.status[answer["ended"]] = answer["status"]
        if died is not None:  # and its runs with it
            self.process.stdout.close()
            if self.process.stdin is not None:
                with suppress(BrokenPipeError):
                    self.process.stdin.close()
            self.process, self._rest = None, b""
            gone = {number: died or 1 for number, status in self.status.items() if status is None}
            self.status |= gone


@dataclass(frozen=True)
class LocalProcesses:
    """Starts each run in a process of its own, with its thread pools pinned.

    The runs are forked from a server that has imported everything: that takes seconds, and a run may take less. A run
    that has ended is recorded even if its sweep was killed before it could: the next one with the same folder finds
    what it left there.

    Args:
        folder: where runs keep their files until they are recorded; sweeps on the same records share it.
        threads: of each run.
        jobs: runs at a time, for the record.
        command: of the server.
        trust: modules that a run imports before it reads its settings.
    """

    folder: Path
    threads: int = 1
    jobs: int = 1
    command: Sequence[str] = COMMAND
    trust: Sequence[str] = ()

    def start(self, run: Run, attempt: int) -> "_LocalJob":
        """Start an attempt, or find one that has ended but was not recorded."""
        place, name = self.place, f"{run.id}-{attempt}"
        job = _LocalJob(run, attempt, place / name, self.threads, self.jobs)
        for left in self.folder.glob(f"*/{name}"):  # of a sweep that is gone, since this one has claimed the run
            if _succeeded(left):
                left.replace(job.folder)
                return job
            shutil.rmtree(left, ignore_errors=True)
        job.folder.mkdir()
        job.server = self.server
        what = {"settings": settings_for(run), "name": run.name, "run": f"{job.folder / 'run'}", "trust": [*self.trust]}
        job.number = self.server.start(what, job.folder, (str(self.folder / "running"), run.id))
        return job

    def clean(self, recorded: Iterable[tuple[str, int]]) -> None:
        """Remove what sweeps that are gone have left of attempts that were recorded."""
        known = {f"{run}-{attempt}" for run, attempt in recorded}
        for left in self.folder.glob("*/*"):
            if left.name in known:
                shutil.rmtree(left, ignore_errors=True)

    def wait(self, seconds: float) -> None:
        """Until a run has ended, but at most so long."""
        self.server.wait(seconds)

    @cached_property
    def place(self) -> Path:
        """The part of the folder that is this sweep's own."""
        while True:
            self.folder.mkdir(exist_ok=True)
            with suppress(FileNotFoundError):  # a sweep that ends has taken it for that of one that is gone
                place = Path(tempfile.mkdtemp(dir=self.folder)).resolve()
                lock = os.open(place / "lock", os.O_RDWR | os.O_CREAT)  # until this process ends
                fcntl.flock(lock, fcntl.LOCK_EX)
                if os.path.samestat(os.fstat(lock), (place / "lock").stat()):
                    return place

    @cached_property
    def server(self) -> _Server:
        environment = {name: value for name, value in os.environ.items() if name != "SEQMIX_RUN_DIR"}
        environment |= dict.fromkeys(POOLS, str(self.threads))
        home = Path(seqmix.__file__).parents[1]
        if home.name not in ("site-packages", "dist-packages"):  # a checkout
            environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(home), environment.get("PYTHONPATH")]))
        return _Server(self.command, self.place / "worker.log", environment)

    def close(self) -> None:
        """Kill what goes on, and remove what no sweep needs; runs that were not recorded wait for the next one."""
        self.server.close()
        if not any(map(_succeeded, self.place.iterdir())):
            shutil.rmtree(self.place, ignore_errors=True)
        for other in self.folder.iterdir():
            if other.is_dir():
                _remove_if_abandoned(other)
        if not any(other.is_dir() for other in self.folder.iterdir()):
            (self.folder / "running").unlink(missing_ok=True)
            with suppress(OSError):  # another sweep has begun
                self.folder.rmdir()


@dataclass
class _LocalJob:
    run: Run
    attempt: int
    folder: Path
    threads: int
    jobs: int
    began: float = field(default_factory=time.monotonic)
    server: _Server | None = None  # none has to do with a run that was found
    number: int = 0

    def finished(self) -> bool:
        return self.server is None or self.server.poll(self.number) is not None

    def stop(self) -> None:
        if self.server is not None:
            self.server.stop(self.number)
        if not _succeeded(self.folder):
            self.clean()

    def record(self) -> Record:
        """The record of the finished run, from what it left in its folder."""
        logs = [self.folder / "stderr"]
        try:
            outcome = Outcome(**json.loads((self.folder / "outcome.json").read_text()))
        except FileNotFoundError:  # its server has died
            assert self.server is not None
            status = self.server.poll(self.number) or 1
            outcome = Outcome(status, time.monotonic() - self.began, self.server.facts)
            logs.append(self.server.log)
        outcome.results, outcome.log = left_in(self.folder / "run"), last_lines(logs)
        return record_of(self.run, self.attempt, outcome, threads=self.threads, jobs=self.jobs)

    def clean(self) -> None:
        """Remove its folder, and what the run has left to a sweep that was killed while it ended."""
        for folder in self.folder.parent.parent.glob(f"*/{self.folder.name}"):
            shutil.rmtree(folder, ignore_errors=True)


def _succeeded(folder: Path) -> bool:
    try:
        return json.loads((folder / "outcome.json").read_text())["status"] == 0
    except (FileNotFoundError, NotADirectoryError):
        return False


def _remove_if_abandoned(place: Path) -> None:
    """Remove what was the place of a sweep that is gone, unless there is something to record."""
    with suppress(BlockingIOError, FileNotFoundError), (place / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not any(map(_succeeded, place.iterdir())):
            shutil.rmtree(place, ignore_errors=True)
