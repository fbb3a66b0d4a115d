"""What a sweep takes beyond its runs."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqmix.benchmarks.goals import sweep_goals
from seqmix.benchmarks.overhead import run_sweep, summary
from seqmix.benchmarks.record import describe_run
from seqmix.benchmarks.report import write
from seqmix.commands.bench.cli import main
from tests.leaderboard.example_records import make_record
from tests.leaderboard.sweep.test_sweep import FakeRunner


def test_by_hand() -> None:
    # 10 + 12 s of runs on two jobs take 11 s at the best; the first two runs waited 3 s for imports.
    row = summary([10, 12], [3.0, 3.1], 16.5, 2)
    assert row["own_seconds"] == 22 and row["overhead"] == pytest.approx(0.5)
    assert (row["start_seconds"], row["lag_seconds"]) == (3.0, None)
    assert summary([1] * 5, [3, 3, 0.1, 0.3, 0.2], 4, 2)["lag_seconds"] == 0.2


def test_goal_is_about_long_sweeps() -> None:
    row = summary([11.0] * 100, [5.0, 5.0, *[0.1] * 98], 560, 2)
    settings = {"runs": 100, "jobs": 2, "seconds": 10}
    ((text, measured, met),) = sweep_goals([row | {"settings": settings}])
    assert text.startswith("100 runs of 10 s on 2 cores") and (measured, met) == ("1.8%", True)
    assert not sweep_goals([row | {"settings": settings | {"runs": 99}}])
    assert not sweep_goals([row | {"settings": settings, "overhead": 0.11}])[0][2]


def test_failed_runs_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake: Any = FakeRunner(lambda run, attempt: make_record(run.name, run.seed, failed=True))
    fake.close = lambda: None
    monkeypatch.setattr("seqmix.leaderboard.sweep.local.LocalProcesses", lambda *arguments: fake)
    with pytest.raises(RuntimeError, match="2 of 2 runs have failed, the first one: exit status 1"):
        run_sweep(tmp_path, 2, 1, 1)


@pytest.mark.slow
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sweep.json"
    assert main(["sweep", "--runs", "3", "--seconds", "1", "--out", str(path)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert row["own_seconds"] > 3 and row["wall_seconds"] > row["own_seconds"] / 2 and row["lag_seconds"] > 0
    assert 0 <= row["end_seconds"] < row["wall_seconds"]
    assert "overhead" in capsys.readouterr().out


def test_report_of_a_sweep(tmp_path: Path) -> None:
    row = summary([11.0] * 100, [5.0, 5.0, *[0.1] * 98], 560, 2) | {"end_seconds": 0.5}
    settings = {"threads": [1], "runs": 100, "jobs": 2, "seconds": 10}
    record = describe_run("sweep", ["sweep"], torch.device("cpu"), settings) | {"rows": [row | {"settings": settings}]}
    docs = tmp_path / "benchmarks.md"
    assert write([record], docs) == [docs]
    assert "### Sweep" in docs.read_text() and "1.8%" in docs.read_text()
