"""What the same bits cost: rows, goals, a table, and a mixer that refuses."""

import json
from pathlib import Path

import pytest

from seqmix.benchmarks.report import write
from seqmix.benchmarks.same_bits import PASSES, same_bits_goals
from seqmix.commands.bench.cli import main


def test_command_and_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "same-bits.json"
    assert main(["same-bits", "--quick", "--only", "lru,attention", "--repeats", "1", "--out", str(file)]) == 0
    assert "Attention: batch_invariant takes whole sequences alone" in capsys.readouterr().out
    entry = json.loads(file.read_text())
    rows = entry["rows"]
    assert [(row["mixer"], row["pass"]) for row in rows] == [(m, p) for m in ("lru", "attention") for p in PASSES]
    assert [row["ratio"] is None for row in rows] == [False] * 6 + [True] * 2
    assert [goal.partition(":")[0] for goal, *_ in same_bits_goals(rows)] == list(PASSES)
    entry["settings"]["quick"] = False
    docs = tmp_path / "kernels.md"
    write([entry], docs)
    assert "same bits ms" in docs.read_text()


def test_a_goal_is_of_the_slowest() -> None:
    rows = [{"pass": "forward", "ratio": ratio} for ratio in (1.1, 1.4, None)]
    assert same_bits_goals(rows) == [("forward: at most 1.3 times, of 2 mixers", "1.10 to 1.40", False)]
