"""`seqmix bench numbers` and `gpu-report`: wrong numbers are told, and every part runs without a GPU."""

import json
import math
from pathlib import Path

import pytest
import torch

from seqmix.benchmarks.layer_setup import Shape
from seqmix.benchmarks.numbers import _share, run_numbers
from seqmix.benchmarks.report import write
from seqmix.commands.bench import gpu_report
from seqmix.commands.bench.cli import main

CPU = torch.device("cpu")


def test_numbers_agree_and_wrong_ones_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    row = run_numbers("lru", Shape(2, 20, 8), torch.float32, CPU, None)
    assert row["status"] == "ok" and 0 < row["worst"] <= 1, row
    monkeypatch.setattr("seqmix.benchmarks.numbers.REASSOCIATED", (1e-3, 0))
    row = run_numbers("lru", Shape(2, 20, 8), torch.float32, CPU, None)
    assert row["status"] == "wrong" and "times off what is allowed" in row["reason"]


def test_what_is_not_finite_is_wrong() -> None:
    truth = torch.ones(3)
    assert _share(torch.tensor([1.0, math.nan, 1.0]), truth + 1e-3, truth, torch.float32) == math.inf


@pytest.mark.slow
def test_a_part_that_fails_leaves_the_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(gpu_report, "PARTS", ("numbers --dtype float8", "numbers --only lru"))
    monkeypatch.setattr(gpu_report, "_SHORT", {"numbers": "--memory system"})
    file = tmp_path / "report.json"
    assert main(["gpu-report", "--device", "cpu", "--out", str(file)]) == 1
    report = json.loads(file.read_text())
    assert [part["bench"] for part in report["parts"]] == ["numbers"]
    assert report["missing"] == [{"part": "numbers --dtype float8", "reason": "ended with status 2"}]


def test_options_that_would_do_nothing_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gpu-report", "--device", "cpu", "--docs", "docs/benchmarks.md"]) == 2
    assert "--docs: expected none on a CPU" in capsys.readouterr().err


def test_a_report_fills_the_docs(tmp_path: Path) -> None:
    row = run_numbers("lru", Shape(1, 5, 4), torch.float32, CPU, None)
    part = {
        "schema": 1, "bench": "numbers", "date": "2026-01-01T00:00:00", "command": "seqmix bench numbers",
        "machine": {"accelerator": "Some GPU", "processor": "x", "usable_cores": 2, "os": "y", "load_average": None},
        "versions": {"torch": "2"}, "commit": "0", "dirty": False, "rows": [row], "device": "cuda",
        "settings": {"quick": False, "memory": "system", "repeats": 3},
    }  # fmt: skip
    docs = tmp_path / "benchmarks.md"
    write([part | {"bench": "gpu-report", "rows": [], "parts": [part]}], docs)
    text = docs.read_text()
    assert "## CUDA" in text and "| lru |" in text and "agrees" in text


@pytest.mark.slow
def test_every_part_runs_interpreted(tmp_path: Path) -> None:
    file = tmp_path / "report.json"
    assert main(["gpu-report", "--device", "cpu", "--out", str(file)]) == 0
    report = json.loads(file.read_text())
    assert len(report["parts"]) == len(gpu_report.PARTS) and not report["missing"]
