"""`seqmix bench optimizers`: rows with ratios, a gate before times, goals from the rows."""

import dataclasses
import json

import pytest
import torch

from seqmix.benchmarks import optimizers
from seqmix.benchmarks.timing import Plan, Settings
from seqmix.commands.bench.cli import main

SETTINGS = Settings(threads=(1,), quick=True, plan=Plan(2, 0.0, 1.0))


def run(contestants):
    return optimizers.run_optimizers(contestants, SETTINGS, lambda text: None)


def test_a_record_with_every_contestant(tmp_path, capsys):
    file = tmp_path / "record.json"
    assert main(["optimizers", "--quick", "--threads", "1", "--out", str(file)]) == 0
    rows = json.loads(file.read_text())["rows"]
    assert [row["optimizer"] for row in rows] == [c.name for c in optimizers.CONTESTANTS]
    for row in rows:
        assert row["status"] == "ok" and (row["ratio"] is None) is (row["versus"] == "")
    assert "torch Muon" in capsys.readouterr().out
    assert len(optimizers.optimizer_goals(rows)) == 3


def test_ten_million_parameters():
    assert sum(torch.Size(shape).numel() for shape in optimizers.shapes(False)) == pytest.approx(1e7, rel=0.06)


def test_no_time_for_a_step_that_is_wrong():
    still = dataclasses.replace(optimizers.CONTESTANTS[0], name="still", make=lambda p: torch.optim.SGD(p, lr=0.0))
    wild = dataclasses.replace(still, name="wild", make=lambda p: torch.optim.SGD(p, lr=float("inf")))
    rows = run([still, wild])
    assert [row["status"] for row in rows] == ["wrong", "wrong"] and all(row["median_ms"] is None for row in rows)
    assert "left a parameter as it was" in rows[0]["reason"] and "not finite" in rows[1]["reason"]
    assert "WRONG" in optimizers.optimizers_table(rows).plain()


def test_select_brings_what_it_is_held_against():
    assert [c.name for c in optimizers.select("muown")] == ["torch Muon", "muown"]
    with pytest.raises(ValueError, match="unknown optimizer 'muone'; did you mean 'muown'"):
        optimizers.select("muone")
