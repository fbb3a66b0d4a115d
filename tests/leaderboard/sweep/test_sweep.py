"""Sweeps: what is done is not done again, what fails is tried once more, what is stopped continues."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from seqmix._signals import Interrupted, interruptible
from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records.store import RunStore, read_runs
from seqmix.leaderboard.sweep.claims import Claims
from seqmix.leaderboard.sweep.local import LocalProcesses
from seqmix.leaderboard.sweep.loop import sweep
from seqmix.leaderboard.sweep.outcome import Outcome, repro_facts
from seqmix.leaderboard.sweep.plan import Run, plan_run, plan_runs
from seqmix.leaderboard.sweep.progress import Progress
from tests.leaderboard.example_records import make_record

ROOT = Path(__file__).parents[3]
TINY = ["trainer.max_steps=3", "trainer.val_check_interval=2", "data.batch_size=4", "data.eval_size=4"]
TINY += ["data.eval_lengths=[4, 8]", "data.train_length=4"]


@dataclass
class FakeJob:
    run: Run
    attempt: int
    outcome: Callable[[Run, int], dict[str, Any]]
    stopped: list[int]
    kept: list[int]
    polls: int = 0
    began: float = field(default_factory=time.monotonic)

    def finished(self) -> bool:
        self.polls += 1
        return self.polls > 1

    def record(self) -> dict[str, Any]:
        return {**self.outcome(self.run, self.attempt), "id": self.run.id, "attempt": self.attempt}

    def clean(self) -> None:
        self.kept.append(self.run.seed)

    def stop(self) -> None:
        self.stopped.append(self.run.seed)


@dataclass
class FakeRunner:
    outcome: Callable[[Run, int], dict[str, Any]] = lambda run, attempt: make_record(run.name, run.seed)
    started: list[tuple[int, int]] = field(default_factory=list)
    stopped: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def start(self, run: Run, attempt: int) -> FakeJob:
        self.started.append((run.seed, attempt))
        return FakeJob(run, attempt, self.outcome, self.stopped, self.kept)

    def clean(self, recorded: Iterable[tuple[str, int]]) -> None:
        pass

    def wait(self, seconds: float) -> None:
        time.sleep(0.001)


def runs(*seeds: int) -> list[Run]:
    return plan_runs(["parity"], seeds, None, [])


def test_plan_has_everything_once() -> None:
    plan = plan_runs(["a5", "parity", "a5"], [0, 1], [1e-3, 3e-3], ["trainer.max_steps=5"])
    assert [(run.name, run.overrides[-1], run.seed) for run in plan] == [
        (name, f"optimizer.lr={rate}", seed) for seed in (0, 1) for name in ("a5", "parity") for rate in (0.001, 0.003)
    ]
    assert len({run.id for run in plan}) == 8
    assert plan[0].command == ("seqmix fit --config a5 --seed_everything 0 --trainer.max_steps=5 --optimizer.lr=0.001")
    assert plan[0].settings["optimizer"]["lr"] == 0.001 and plan[0].settings["trainer"] == {"max_steps": 5}


def test_runs_are_called_by_what_tells_them_apart() -> None:
    changes = ["data.seed=1", "model.d_model=8", "model.n_layers=1", "data.batch_size=2", "optimizer.lr=0.1"]
    run = plan_run("parity", changes, 3)
    assert str(run) == "parity data.seed=1 model.d_model=8 model.n_layers=1, learning rate 0.1, seed 3"
    assert str(plan_run("parity", ["data.seed=1"], 0, board="b", entry="row", column="task")) == "task row, seed 0"


def test_id_is_contents_and_seed(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: parity\n")
    id = plan_run(str(file), [], 0).id
    file.write_text("# a comment\nbase: parity\n")
    assert plan_run(str(file), [], 0).id == id
    assert plan_run(str(file), [], 1).id != id
    assert plan_run("parity", [], 0).id != id
    assert plan_run(str(file), ["mixer.d_state=64"], 0).id != id
    file.write_text("base: parity\nmodel: {d_model: 64}\n")
    assert plan_run(str(file), [], 0).id != id
    other = tmp_path / "other" / "mine.yaml"
    other.parent.mkdir()
    other.write_text("base: parity\n")
    with pytest.raises(ValueError, match="records know configs by name"):
        plan_runs([str(file), str(other)], [0], None, [])


def test_done_runs_are_not_done_again(tmp_path: Path) -> None:
    store, runner = RunStore(tmp_path / "runs.jsonl"), FakeRunner()
    assert sweep(runs(0, 1), store, runner, jobs=2) == 0
    assert sweep(runs(0, 1, 2), store, runner) == 0
    assert runner.started == [(0, 1), (1, 1), (2, 1)]
    assert [r["identity"]["seed"] for r in read_runs(store.path)] == [0, 1, 2]
    assert [path.name for path in tmp_path.iterdir()] == ["runs.jsonl"]


@pytest.mark.parametrize(("ended", "attempts"), [("exit status 2", 1), ("exit status 255", 2), ("exit status 1", 2)])
def test_only_what_settings_cannot_have_is_not_tried_again(ended: str, attempts: int, tmp_path: Path) -> None:
    def outcome(run: Run, attempt: int) -> dict[str, Any]:
        return make_record(run.name, run.seed, failed=True) | {"reason": f"{ended}\nsaid at the end"}

    runner = FakeRunner(outcome)
    assert sweep(runs(0), RunStore(tmp_path / "runs.jsonl"), runner) == 1
    assert runner.started == [(0, attempt + 1) for attempt in range(attempts)]


def test_failed_runs_are_recorded_and_tried_once_more(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def outcome(run: Run, attempt: int) -> dict[str, Any]:
        return make_record(run.name, run.seed, failed=run.seed == 0 or attempt == 1)

    store, runner = RunStore(tmp_path / "runs.jsonl"), FakeRunner(outcome)
    assert sweep(runs(0, 1), store, runner) == 1
    assert runner.started == [(0, 1), (0, 2), (1, 1), (1, 2)]
    assert [r["status"] for r in read_runs(store.path)] == ["failed", "failed", "failed", "ok"]
    out = capsys.readouterr().out
    assert "seed 0: failed, trying again: MemoryError" in out and "1/2 done, 1 failed" in out
    assert sweep(runs(0, 1), store, runner) == 1
    assert len(runner.started) == 4
    assert sweep(runs(0, 1), store, runner, retry_failed=True) == 1
    assert runner.started[4:] == [(0, 3), (0, 4)]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_sweep_keeps_what_was_done(tmp_path: Path, number: int) -> None:
    def outcome(run: Run, attempt: int) -> dict[str, Any]:
        if run.seed == 1:
            os.kill(os.getpid(), number)
        return make_record(run.name, run.seed)

    before = signal.getsignal(number)
    store, runner = RunStore(tmp_path / "runs.jsonl"), FakeRunner(outcome)
    with pytest.raises(KeyboardInterrupt):
        sweep(runs(0, 1, 2, 3), store, runner, jobs=2)
    assert signal.getsignal(number) is before
    assert [r["identity"]["seed"] for r in read_runs(store.path)] == [0, 1]
    runner.outcome = lambda run, attempt: make_record(run.name, run.seed)
    assert sweep(runs(0, 1, 2, 3), store, runner) == 0
    assert [r["identity"]["seed"] for r in read_runs(store.path)] == [0, 1, 2, 3]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_signal_acts_at_once(tmp_path: Path, number: int) -> None:
    def outcome(run: Run, attempt: int) -> dict[str, Any]:
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        raise AssertionError("the sweep went on")

    store, runner = RunStore(tmp_path / "runs.jsonl"), FakeRunner(outcome)
    with interruptible(), pytest.raises(Interrupted, match=f"interrupted by {signal.Signals(number).name}"):
        sweep(runs(0, 1), store, runner)


def test_broken_sweep_stops_its_runs(tmp_path: Path) -> None:
    def outcome(run: Run, attempt: int) -> dict[str, Any]:
        raise OSError("no space")

    store, runner = RunStore(tmp_path / "runs.jsonl"), FakeRunner(outcome)
    with pytest.raises(OSError, match="no space"):
        sweep(runs(0, 1, 2), store, runner, jobs=2)
    assert runner.stopped == [1]
    assert list(tmp_path.iterdir()) == []


def test_files_of_a_run_go_when_its_record_is_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, runner = RunStore(tmp_path / "runs.jsonl"), FakeRunner()
    sync, kept = os.fsync, []

    def fsync(descriptor: int) -> None:
        kept.append([*runner.kept])
        if len(kept) > 3:
            raise OSError("no space")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="no space"):
        sweep(runs(0, 1, 2), store, runner)
    assert kept[-1] == runner.kept == [0, 1]  # of the folder, and of each record


def test_what_could_not_be_recorded_waits_for_the_next_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (run,), folder, store = runs(0), tmp_path / ".runs", RunStore(tmp_path / "runs.jsonl")
    outcome = Outcome(0, 1.0, repro_facts(), results={})
    monkeypatch.setattr("seqmix.leaderboard.sweep.local.record_of", lambda run, *_, **__: finished(run))

    def broken(store: RunStore, record: dict[str, Any]) -> None:
        raise OSError("no space")

    def left_by_a_run(attempt: int) -> Path:
        (place := folder / "old" / f"{run.id}-{attempt}").mkdir(parents=True)
        (place / "outcome.json").write_text(json.dumps(dataclasses.asdict(outcome)))
        return place

    left_by_a_run(1)
    for _ in range(2):
        with monkeypatch.context() as patch, pytest.raises(OSError, match="no space"):
            patch.setattr(RunStore, "append", broken)
            with closing(LocalProcesses(folder)) as runner:
                sweep([run], store, runner)
        assert len(list(folder.glob(f"*/{run.id}-1/outcome.json"))) == 1
    with closing(LocalProcesses(folder)) as runner:
        assert sweep([run], store, runner) == 0
    assert len(read_runs(store.path)) == 1
    assert not list(folder.glob(f"*/{run.id}-1"))
    left_by_a_run(1)  # as a sweep does that is killed between its record and the end of its folder
    with closing(LocalProcesses(folder)) as runner:
        assert sweep([run], store, runner) == 0
    assert not list(folder.glob(f"*/{run.id}-1"))


def finished(run: Run) -> dict[str, Any]:
    return make_record(run.name, run.seed) | {"id": run.id, "attempt": 1}


def test_runs_of_another_sweep_are_left_to_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunStore(tmp_path / "runs.jsonl")
    code = "import sys; from pathlib import Path; from seqmix.leaderboard.sweep.claims import Claims; "
    code += "c = Claims(Path(sys.argv[1])); print(c.take(sys.argv[2]), flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, str(store.path), runs(1)[0].id]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None and other.stdout.readline() == b"True\n"
        runner = FakeRunner()
        sweep(runs(0, 1, 2), store, runner, jobs=2)
        assert [seed for seed, _ in runner.started] == [0, 2]
        assert "1 left to another sweep" in capsys.readouterr().out
        other.kill()
    assert Claims(store.path).take(runs(1)[0].id)


def test_time_left_by_hand() -> None:
    progress = Progress(10, jobs=2)
    assert progress.left(["a"], []) is None
    progress.learn("a", 10)
    progress.learn("a", 20)
    progress.learn("b", 60)
    # 15 each for a, 60 for b, the mean of all (30) for c; one job has 5 to go.
    assert progress.left(["a", "b", "c"], [("a", 10.0)]) == pytest.approx((15 + 60 + 30 + 5) / 2)
    assert progress.left([], [("b", 10.0)]) == 50
    assert progress.text(3725) == "0/10 done, 1:02:05 left"


def test_real_run_leaves_a_record_that_says_everything(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    argv = ["run", "parity", "--lr", "1e-3", "--set", *TINY, "--store", str(path)]
    assert main(argv) == 0
    (record,) = read_runs(path)
    assert record["id"] == plan_run("parity", [*TINY, "optimizer.lr=0.001"], 0).id
    assert (record["status"], record["reason"]) == ("ok", None)
    assert record["identity"]["task"] == "parity" and len(record["identity"]["task_version"]) == 16
    assert record["identity"]["mixer_kwargs"] == {"block_size": 2, "d_state": 32}
    assert record["training"]["lr"] == 0.001 and record["training"]["steps"] == 3
    assert record["training"]["tokens"] == 3 * 4 * (3 + 1)
    assert set(record["result"]["metrics"]) == {"4", "8"} and record["result"]["metrics"]["4"]["n"] == 4
    assert [point["step"] for point in record["result"]["curve"]] == [2]
    assert record["result"]["final_length"] == 3
    assert record["size"]["params_mixer"] < record["size"]["params_non_embedding"] < record["size"]["params_total"]
    assert record["size"]["state_size"] == {"4": 32, "8": 32}
    assert 0 < record["cost"]["train_seconds"] < record["cost"]["wall_seconds"]
    assert record["cost"]["threads"] == 1 and record["cost"]["device"] == "cpu"
    assert record["size"]["state_bytes"] == {"4": 4 * 32, "8": 4 * 32}
    training, result = record["training"], record["result"]
    assert (training["weight_decay"], training["warmup"], training["stopped_early"]) == (0.01, 60, False)
    assert (training["checkpoint"], training["checkpoint_split"], result["best_step"]) == ("last", None, 2)
    assert result["validation"] == result["curve"][0] and result["iterations"] is None
    assert set(result["steps_to"]) == {"0.5", "0.9", "0.99"}
    assert 0 < record["cost"]["cpu_seconds"] <= 1.05 * record["cost"]["wall_seconds"]
    # Validations are no training, so that there is more of it in a second than tokens in all of them.
    assert record["cost"]["tokens_per_second"] > training["tokens"] / record["cost"]["train_seconds"]
    assert 0 < record["cost"]["decode_ms"] < 1000
    assert record["identity"]["split"] == "test" and record["identity"]["board"] is None
    before = path.read_bytes()
    assert main(argv) == 0
    assert path.read_bytes() == before


@pytest.mark.slow
def test_runs_are_forked_and_a_dead_server_is_told_and_replaced(tmp_path: Path) -> None:
    runner = LocalProcesses(tmp_path)
    runs = [plan_run("parity", [*TINY, "trainer.max_steps=100000"], seed) for seed in (0, 1)]
    with closing(runner):
        jobs = [runner.start(run, 1) for run in runs]
        server = runner.server.process
        assert server is not None
        wait(lambda: len(children(server.pid)) == 2)
        jobs[0].stop()
        assert jobs[0].finished()
        assert not jobs[1].finished(), "the other goes on"
        server.kill()
        wait(jobs[1].finished)
        record = jobs[1].record()
        assert (record["status"], record["reason"].splitlines()[0]) == ("failed", "killed by SIGKILL")
        again = runner.start(plan_run("parity", TINY, 2), 1)
        assert runner.server.process is not server
        wait(again.finished)
        assert again.record()["status"] == "ok"
        last = runner.start(runs[0], 2)
        server = runner.server.process
        assert server is not None
        wait(lambda: len(children(server.pid)) == 1)
        alive = children(server.pid)
    assert last.finished()
    assert not any(Path("/proc", pid).exists() for pid in alive), "what goes on when the sweep ends is killed"


def children(pid: int) -> list[str]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return path.read_text().split() if path.exists() else []


def wait(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_runs_that_diverge_or_die(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.jsonl"
    assert main(["run", "parity", "--lr", "1e30", "--set", *TINY, "--store", str(path)]) == 0
    assert main(["run", "parity", "--set", "mixer.block_size=0", "--store", str(path)]) == 1
    diverged, wrong = read_runs(path)
    assert diverged["result"]["diverged"] and "not finite" in diverged["reason"] and diverged["status"] == "ok"
    assert (wrong["attempt"], wrong["status"]) == (1, "failed"), "settings that cannot be are not tried twice"
    assert "exit status 2" in wrong["reason"] and "block_size must be a positive integer, got 0" in wrong["reason"]
    assert main(["run", "parity", "--set", "mixer.block_sise=2", "--store", str(path)]) == 2
    assert "did you mean 'block_size'" in capsys.readouterr().err and len(read_runs(path)) == 2, "told before any run"


@pytest.mark.slow
def test_killed_sweeps_leave_no_half_records_and_no_orphans(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    argv = ["run", "parity", "--seeds", "0", "1", "2", "--set", *TINY, "--store", str(path), "--jobs", "2"]
    environment = os.environ | {"TMPDIR": str(tmp_path)}
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        before = read_runs(path) if path.exists() else []
        process = subprocess.Popen([sys.executable, "-m", "seqmix", "leaderboard", *argv], cwd=ROOT, env=environment)
        while process.poll() is None and (len(read_runs(path)) if path.exists() else 0) <= len(before):
            time.sleep(0.05)
        process.send_signal(number)
        process.wait()
        assert read_runs(path)[: len(before)] == before
    assert main(argv) == 0
    assert sorted(r["identity"]["seed"] for r in read_runs(path)) == [0, 1, 2]
    time.sleep(1)
    alive = subprocess.run(["pgrep", "-f", str(tmp_path)], capture_output=True, text=True).stdout
    assert alive == ""
