"""Runs as processes of this machine, forked from one that has imported everything."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from seqmix.leaderboard.plan import Run, plan_run
from seqmix.leaderboard.schema import SCHEMA_VERSION, Record, config_hash, empty_record

__all__ = ["LocalProcesses", "repro_facts"]

_OUTPUT = (
    "--trainer.logger=false",
    "--accuracy_table.figure=false",
    "--trainer.callbacks+=seqmix.leaderboard.recorder.RunRecorder",
)
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


class _Server:
    """The other end of `seqmix.leaderboard.worker`; started again when it has died."""

    def __init__(self, log: Path, environment: dict[str, str]) -> None:
        self.log, self.environment = log, environment
        self.process: subprocess.Popen[bytes] | None = None
        self.status: dict[int, int | None] = {}  # of every run; None while it goes on
        self._rest = b""

    def start(self, options: list[str], folder: Path) -> int:
        """Fork a run; its number."""
        self._read()
        if self.process is None:
            with self.log.open("ab") as log:
                self.process = subprocess.Popen(
                    [sys.executable, "-m", "seqmix.leaderboard.worker"],
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
        paths = {name: str(folder / name) for name in ("stdout", "stderr")}
        self._tell({"start": number, "options": options, **paths})
        return number

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

    The runs are forked from a server that has imported everything: that takes seconds, and a run may take less.

    Args:
        folder: where runs keep their files until they are recorded.
        threads: of each run.
        jobs: runs at a time, for the record.
    """

    folder: Path
    threads: int = 1
    jobs: int = 1

    def start(self, run: Run, attempt: int) -> "_LocalJob":
        place = {"board": run.board, "entry": run.entry, "column": run.column}
        if plan_run(run.config, run.overrides, run.seed, **place).id != run.id:
            raise ValueError(f"config {run.config}: it was changed during the sweep; start the sweep again")
        folder = Path(tempfile.mkdtemp(prefix=f"{run.name}-{run.seed}-", dir=self.folder))
        facts = repro_facts() | {"command": run.command}
        began = time.monotonic()
        number = self.server.start([*run.options, *_OUTPUT, f"--run_dir={folder / 'run'}"], folder)
        return _LocalJob(run, attempt, self.server, number, folder, facts, self.threads, self.jobs, began)

    @cached_property
    def server(self) -> _Server:
        environment = {name: value for name, value in os.environ.items() if name != "SEQMIX_RUN_DIR"}
        return _Server(self.folder / "worker.log", environment | dict.fromkeys(_POOLS, str(self.threads)))

    def close(self) -> None:
        """Kill what goes on."""
        self.server.close()


@dataclass
class _LocalJob:
    run: Run
    attempt: int
    server: _Server
    number: int
    folder: Path
    facts: dict[str, Any]
    threads: int
    jobs: int
    began: float

    def finished(self) -> bool:
        return self.server.poll(self.number) is not None

    def stop(self) -> None:
        self.server.stop(self.number)
        self._clean()

    def record(self) -> Record:
        """The record of the finished run, from what it left in its folder."""
        seconds = round(time.monotonic() - self.began, 3)
        results: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            results = json.loads((self.folder / "run" / "results.json").read_text())
        record = empty_record() | {"schema_version": SCHEMA_VERSION, "id": self.run.id, "attempt": self.attempt}
        result = results.get("result") or {}
        complete = result.get("diverged") or (self.server.poll(self.number) == 0 and result.get("metrics"))
        if complete:
            record |= {"status": "ok", "reason": results["reason"]}
            for section in ("identity", "size", "training", "result", "cost"):
                record[section] |= results[section]
            _say_checkpoint(record, self.run.settings.get("test_after_fit", "last"))
        else:
            record |= {"status": "failed", "reason": self._reason()}
            record["identity"] |= _named(self.run.settings) | (results.get("identity") or {})
        run = self.run
        record["identity"] |= {"seed": run.seed, "config": run.name, "overrides": list(run.overrides)}
        record["identity"] |= {"settings": run.settings, "config_hash": config_hash(run.settings), "split": "test"}
        record["identity"] |= {"board": run.board, "entry": run.entry, "column": run.column}
        record["cost"] |= {"wall_seconds": seconds, "threads": self.threads, "jobs": self.jobs}
        record["repro"] |= self.facts | {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        self._clean()
        return record

    def _reason(self) -> str:
        status = self.server.poll(self.number) or 0
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        # A run that could not even begin has left its reason with the server.
        logs = [path for path in (self.folder / "stderr", self.server.log) if path.is_file()]
        tails = (path.read_text(errors="replace").strip().splitlines()[-5:] for path in logs)
        lines = next(filter(None, tails), [])
        return "\n".join([how, *(line[-500:] for line in lines)])

    def _clean(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)


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

    from seqmix.benchmarks.record import describe_run

    facts = describe_run("leaderboard", [], torch.device("cpu"), {})
    versions = facts["versions"]
    return {
        "seqmix": versions["seqmix"],
        "torch": versions["torch"],
        "python": versions["python"],
        "commit": facts["commit"],
        "dirty": facts["dirty"],
        "platform": facts["machine"]["os"],
        "processor": facts["machine"]["processor"],
    }
