"""Runs as processes of this machine."""

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
from pathlib import Path
from typing import Any

from seqmix.leaderboard.plan import Run, plan_run
from seqmix.leaderboard.schema import SCHEMA_VERSION, Record, empty_record

__all__ = ["LocalProcesses", "repro_facts"]

_OUTPUT = (
    "--trainer.logger=false",
    "--accuracy_table.figure=false",
    "--trainer.callbacks+=seqmix.leaderboard.recorder.RunRecorder",
)
_POOLS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS")


@dataclass(frozen=True)
class LocalProcesses:
    """Starts each run in a process of its own, with its thread pools pinned.

    Args:
        folder: where runs keep their files until they are recorded.
        threads: of each run.
        jobs: runs at a time, for the record.
    """

    folder: Path
    threads: int = 1
    jobs: int = 1

    def start(self, run: Run, attempt: int) -> "_LocalJob":
        if plan_run(run.config, run.overrides, run.seed).id != run.id:
            raise ValueError(f"config {run.config}: it was changed during the sweep; start the sweep again")
        folder = Path(tempfile.mkdtemp(prefix=f"{run.name}-{run.seed}-", dir=self.folder))
        environment = {name: value for name, value in os.environ.items() if name != "SEQMIX_RUN_DIR"}
        environment |= dict.fromkeys(_POOLS, str(self.threads))
        command = [sys.executable, "-m", "seqmix.leaderboard.worker", *run.options, *_OUTPUT]
        facts = repro_facts() | {"command": run.command}
        with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
            process = subprocess.Popen(
                [*command, f"--run_dir={folder / 'run'}"],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the sweep alone
            )
        return _LocalJob(run, attempt, process, folder, facts, self.threads, self.jobs, time.monotonic())


@dataclass
class _LocalJob:
    run: Run
    attempt: int
    process: "subprocess.Popen[bytes]"
    folder: Path
    facts: dict[str, Any]
    threads: int
    jobs: int
    began: float

    def finished(self) -> bool:
        return self.process.poll() is not None

    def stop(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self._clean()

    def record(self) -> Record:
        """The record of the finished run, from what it left in its folder."""
        seconds = round(time.monotonic() - self.began, 3)
        results: dict[str, Any] = {}
        with suppress(OSError, ValueError):
            results = json.loads((self.folder / "run" / "results.json").read_text())
        record = empty_record() | {"schema_version": SCHEMA_VERSION, "id": self.run.id, "attempt": self.attempt}
        result = results.get("result") or {}
        complete = result.get("diverged") or (self.process.returncode == 0 and result.get("metrics"))
        if complete:
            record |= {"status": "ok", "reason": results["reason"]}
            for section in ("identity", "size", "training", "result", "cost"):
                record[section] |= results[section]
            record["training"]["checkpoint"] = self.run.settings.get("test_after_fit", "last")
        else:
            record |= {"status": "failed", "reason": self._reason()}
            record["identity"] |= _named(self.run.settings) | (results.get("identity") or {})
        run = self.run
        record["identity"] |= {"seed": run.seed, "config": run.name, "overrides": list(run.overrides)}
        record["identity"] |= {"settings": run.settings}
        record["cost"] |= {"wall_seconds": seconds, "threads": self.threads, "jobs": self.jobs}
        record["repro"] |= self.facts | {"utc": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
        self._clean()
        return record

    def _reason(self) -> str:
        status = self.process.returncode
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        lines = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()[-5:]
        return "\n".join([how, *(line[-500:] for line in lines)])

    def _clean(self) -> None:
        self.process.wait()
        if self.process.stdin is not None:
            self.process.stdin.close()
        shutil.rmtree(self.folder, ignore_errors=True)


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
