"""Sequences cut over processes beside one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from seqmix import SequenceModel
from seqmix.benchmarks import processes
from seqmix.benchmarks.record import describe_run
from seqmix.benchmarks.report import write
from seqmix.benchmarks.sequences import ONE, REHEARSAL, schedule, ways
from seqmix.benchmarks.sequences_table import sequence_goals, sequences_table
from seqmix.benchmarks.timing import summary
from seqmix.commands.bench.cli import main


def test_schedule_by_hand() -> None:
    assert schedule("pipeline", 2, 4, None) == pytest.approx(8 / 5)
    assert schedule("two-pass", 4, 9, 1.25) == pytest.approx(3.2)
    assert schedule("two-pass", 4, 9, 0.0) == pytest.approx(16 / 7)  # keys
    assert schedule("two-pass", 4, 9, None) is None and schedule(ONE, 1, 4, None) is None


def test_ways_of_a_model() -> None:
    scans = [(ONE, 1), ("two-pass", 2), ("pipeline", 2)]
    assert ways(SequenceModel("lru", 5, 8), [2]) == [*scans, (REHEARSAL, 2)]
    assert ways(SequenceModel("attention", 5, 8), [2]) == scans  # what is gathered cannot be rehearsed
    assert ways(SequenceModel("lstm", 5, 8), [2, 3]) == [(ONE, 1), ("pipeline", 2), ("pipeline", 3)]


def test_peaks_are_seen() -> None:
    before = processes.watch()
    if before is None:
        pytest.skip("this system does not say what is resident")
    torch.ones(8 << 20)  # 32 MiB, freed at once
    peak = processes.peak_since(before)
    assert peak is not None and 25e6 < peak < 60e6
    assert (processes.peak_since(processes.watch()) or 0) < 8e6, "peaks are forgotten"


def example(form: str, share: float) -> dict[str, Any]:
    sizes = {"T": 131_072, "layers": 4, "d_model": 32, "B": 1}
    row = {"mixer": "lru", "arguments": {}, "sizes": sizes, "form": form, "ranks": 2, "status": "ok", "reason": ""}
    row |= summary([10.0, 12.0]).record()
    return row | {
        "tokens_per_second": 1e4, "times_one": 1.5, "schedule": 1.6, "peak_bytes": 5e8, "memory_share": share,
        "processor_ms": 9.0, "processor_times_one": 1.9,
    }  # fmt: skip


def test_goals_and_report(tmp_path: Path) -> None:
    rows = [example("two-pass", 0.52), example("pipeline", 0.61), example(REHEARSAL, 1.1)]
    assert [(measured, met) for _, measured, met in sequence_goals(rows)] == [("0.52", True), ("0.61", False)]
    assert "131,072" in sequences_table(rows).plain()
    settings = {"threads": [1], "repeats": 3, "memory": "system", "ranks": [2], "quick": False}
    record = describe_run("sequences", ["sequences"], torch.device("cpu"), settings) | {"rows": rows}
    docs = tmp_path / "distributed.md"
    assert write([record], docs) == [docs]
    assert "### Sequences" in docs.read_text() and "missed" in docs.read_text()


@pytest.mark.parametrize(
    ("words", "said"), [(["--ranks", "1"], "numbers of at least 2"), (["--length", "64"], "64 tokens a rank")]
)
def test_mistakes(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sequences", *words]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "sequences.json"
    assert main(["sequences", "--quick", "--only", "mamba-2", "--out", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert [(row["form"], row["ranks"]) for row in rows] == [
        (ONE, 1), ("two-pass", 2), ("pipeline", 2), (REHEARSAL, 2)
    ]  # fmt: skip
    assert all(row["status"] == "ok" and row["median_ms"] > 0 for row in rows)
    assert "schedule" in capsys.readouterr().out
