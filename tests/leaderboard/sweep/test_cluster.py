"""Runs as jobs of submitit: on its local executor, and on a SLURM made of shell scripts."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records.store import read_runs
from seqmix.leaderboard.sweep.cluster import ClusterJobs
from seqmix.leaderboard.sweep.outcome import Outcome, repro_facts
from seqmix.leaderboard.sweep.plan import plan_run
from tests.leaderboard.sweep.test_sweep import ROOT, TINY, wait

pytest.importorskip("submitit")
LOCAL = {"cluster": "local", "timeout_min": 5}


def options(folder: Path) -> list[str]:
    return ["--jobs", "2", "--submitit", str(folder), "cluster=local", "timeout_min=5"]


def test_job_of_a_sweep(tmp_path: Path) -> None:
    store, folder = tmp_path / "runs.jsonl", tmp_path / "jobs"
    assert main(["run", "parity", "--set", *TINY, "--store", str(store), *options(folder)]) == 0
    (good,) = read_runs(store)
    assert good["status"] == "ok" and good["repro"]["seqmix"] and good["result"]["metrics"]["8"]["n"] == 4
    assert good["cost"]["train_seconds"] < good["cost"]["wall_seconds"] and good["cost"]["threads"] == 1
    assert list(folder.iterdir()) == [], "what is recorded leaves nothing"


@pytest.mark.slow
def test_job_that_dies(tmp_path: Path) -> None:
    store, folder = tmp_path / "runs.jsonl", tmp_path / "jobs"
    assert main(["run", "parity", "--set", "mixer.block_sise=2", "--store", str(store), *options(folder)]) == 1
    (wrong,) = read_runs(store)
    assert (wrong["attempt"], wrong["status"]) == (1, "failed")
    assert "exit status 2" in wrong["reason"] and "did you mean 'block_size'" in wrong["reason"]
    assert list(folder.iterdir()) == []


class FakeExecutor:
    cluster = "local"

    def __init__(self, folder: Path) -> None:
        self.paths = type("Paths", (), {"folder": folder, "stderr": folder / "err", "stdout": folder / "out"})
        self.job_id, self.state, self.submitted = "0", "INTERRUPTED", 0
        self._process = subprocess.Popen(["true"])
        self._process.wait()

    def submit(self, *args: Any) -> "FakeExecutor":
        self.submitted += 1
        return self

    def done(self) -> bool:
        return True


@pytest.fixture
def executor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeExecutor:
    fake = FakeExecutor(tmp_path)
    monkeypatch.setattr(ClusterJobs, "executor", lambda self, folder: fake)
    return fake


def test_jobs_of_a_sweep_that_is_gone_are_taken_over(tmp_path: Path, executor: FakeExecutor) -> None:
    run, jobs = plan_run("parity", TINY, 0), ClusterJobs(tmp_path, 1, LOCAL)
    folder = tmp_path / f"{run.id}-1"
    folder.mkdir()
    # It has ended: its outcome is recorded.
    outcome = Outcome(1, 7.0, repro_facts(), log=["MemoryError"])
    (folder / "outcome.json").write_text(json.dumps(dataclasses.asdict(outcome)))
    job = jobs.start(run, 1)
    assert job.finished() and executor.submitted == 0
    record = job.record()
    assert (record["reason"], record["cost"]["wall_seconds"]) == ("exit status 1\nMemoryError", 7.0)
    assert (folder / "outcome.json").is_file(), "nothing has been recorded yet"
    jobs.clean([(run.id, 1), (run.id, 2)])
    # It goes on: it is waited for, until it ends.
    folder.mkdir()
    code = "import time; print(flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", code, "submitit"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()  # before it is itself, its command line is empty
        about = {"cluster": "local", "id": str(process.pid), "logs": str(folder)}
        (folder / "job.json").write_text(json.dumps(about))
        job = jobs.start(run, 1)
        assert executor.submitted == 0 and not job.finished()
        process.kill()
    assert job.finished()
    assert "ended without an outcome" in job.record()["reason"]
    job.clean()
    # It has died with the sweep: it is submitted again, and what comes of it is its reason.
    folder.mkdir()
    (folder / "job.json").write_text(json.dumps(about))
    (tmp_path / "err").write_text("slurmstepd: out of memory\n")
    job = jobs.start(run, 1)
    assert executor.submitted == 1 and job.finished()
    reason = job.record()["reason"].splitlines()
    assert reason == ["job 0 ended without an outcome: INTERRUPTED", "slurmstepd: out of memory"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["jobs", "cluster=local", "timeout_mins=3"], "'timeout_mins'; did you mean 'timeout_min'"),
        (["jobs", "cluster=local", "timeout_min=soon"], '--submitit: Parameter "timeout_min" expected type'),
        (["jobs", "cluster=moon"], "cluster must be slurm or local, got 'moon'"),
        (["jobs"], "cluster slurm cannot be used here"),
        (["cluster=local"], "expected FOLDER and then PARAMETER=VALUE"),
    ],
)
def test_mistakes(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main(["run", "parity", "--store", "runs.jsonl", "--submitit", *options]) == 2
    assert words in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


SBATCH = """#!/bin/sh
number=$$
echo "Submitted batch job $number"
for script; do :; done
SLURM_JOB_ID=$number setsid sh "$script" > /dev/null 2>&1 &
"""
SRUN = """#!/bin/sh
while [ "$1" != "${1#-}" ]; do
  case "$1" in --output) out="$2"; shift ;; --error) err="$2"; shift ;; esac
  shift
done
export SLURM_JOB_NUM_NODES=1 SLURM_NTASKS=1 SLURM_NODEID=0 SLURM_PROCID=0 SLURM_LOCALID=0 SLURM_JOB_NODELIST=here
exec "$@"
"""
SACCT = """#!/bin/sh
echo "JobID|State|NodeList"
"""


@pytest.mark.slow
def test_slurm_that_is_made_of_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = tmp_path / "bin"
    commands.mkdir()
    for name, text in (("sbatch", SBATCH), ("srun", SRUN), ("sacct", SACCT), ("scancel", "#!/bin/sh\n")):
        (commands / name).write_text(text)
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{commands}:{os.environ['PATH']}")
    store = tmp_path / "runs.jsonl"
    argv = ["run", "parity", "--seeds", "0", "1", "--set", *TINY, "--store", str(store), "--jobs", "2"]
    assert main([*argv, "--submitit", str(tmp_path / "jobs"), "timeout_min=5", "slurm_partition=cpu"]) == 0
    assert sorted((r["identity"]["seed"], r["status"]) for r in read_runs(store)) == [(0, "ok"), (1, "ok")]


@pytest.mark.slow
def test_jobs_outlive_a_sweep_that_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, folder = tmp_path / "runs.jsonl", tmp_path / "jobs"
    argv = ["run", "parity", "--seeds", "0", "1", "--set", *TINY, "--store", str(store), *options(folder)]
    sweep = subprocess.Popen([sys.executable, "-m", "seqmix", "leaderboard", *argv], cwd=ROOT)
    wait(lambda: len(list(folder.glob("*/stdout"))) == 2)
    sweep.kill()
    sweep.wait()
    monkeypatch.setattr(ClusterJobs, "executor", lambda self, folder: None)  # nothing can be submitted
    assert main(argv) == 0
    records = read_runs(store)
    assert sorted((r["identity"]["seed"], r["attempt"], r["status"]) for r in records) == [(0, 1, "ok"), (1, 1, "ok")]
