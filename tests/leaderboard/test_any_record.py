"""What validates renders: reports, pages, figures and Parquet of records from the schema's whole range."""

import json
import math
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records.checks import problems_of
from seqmix.leaderboard.records.parquet import read_parquet, write_parquet
from seqmix.leaderboard.records.store import latest, scan_runs
from seqmix.leaderboard.summary.aggregate import aggregate
from tests.leaderboard.any_records import records
from tests.leaderboard.example_records import make_record

Record = dict[str, Any]
SETTINGS = settings(deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)


def render(made: list[Record], figures: bool) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "runs.jsonl"
        path.write_text("".join(json.dumps(record) + "\n" for record in made))
        found, problems = scan_runs(path)
        if not found:
            return
        (folder / "README.md").write_text("<!-- seqmix:x -->\n<!-- /seqmix:x -->\n")
        for kind in ("seeds", "summary", "text", "board"):
            argv = ["report", str(path), "--kind", kind, "--write", str(folder / "README.md"), "--section", "x"]
            assert main(argv) in (0, 1, 2)
        ended = any(record["status"] == "ok" for record in latest(found))
        (folder / "figures").mkdir()
        argv = ["page", str(path), "--out", str(folder / "site")]
        argv += ["--figures", str(folder / "figures")] if figures else []
        assert main(argv) == (bool(problems) if ended else 2)
        write_parquet(found, folder / "runs.parquet")
        assert len(read_parquet(folder / "runs.parquet")) == len(found)
        assert {it.name for it in folder.iterdir()} <= {"runs.jsonl", "README.md", "site", "figures", "runs.parquet"}


@pytest.mark.slow
@seed(0)
@settings(SETTINGS, max_examples=20)
@given(records())
def test_what_validates_renders(made: list[Record]) -> None:
    render(made, figures=False)


@pytest.mark.slow
@seed(1)
@settings(SETTINGS, max_examples=2000)
@given(records())
def test_what_validates_renders_with_figures(made: list[Record]) -> None:
    render(made, figures=True)


@pytest.mark.parametrize(
    ("section", "name", "value", "says"),
    [
        ("training", "lr", math.inf, "training.lr: expected a number of at least 0, got an infinite number"),
        ("training", "steps", 2**63, "training.steps: expected a whole number of 64 bits, got one of 64"),
        ("cost", "wall_seconds", math.nan, "cost.wall_seconds: expected a number of at least 0, got NaN"),
        ("result", "chance", 1, "result.chance: expected null or a share in [0, 1), got 1"),
        ("result", "train_length", 0, "result.train_length: expected null or at least 1, got 0"),
        ("result", "metric", "macro_accuracy", "result.metrics.16: expected macro, which decides the task, got none"),
        ("identity", "overrides", ["a=1", None], "identity.overrides: expected a list of text, got ['a=1', None]"),
        ("identity", "config", "a\ud800", "identity.config: expected text, got half of a character"),
        ("identity", "settings", {"x": [10**400]}, "identity.settings.x.0: expected a whole number of 64 bits"),
        ("identity", "settings", {"\udc00": 1}, "identity.settings: expected text, got half of a character"),
    ],
)
def test_values_without_a_meaning_are_refused_by_name(section: str, name: str, value: Any, says: str) -> None:
    record = make_record()
    record[section][name] = value
    found = problems_of(record)
    assert len(found) >= 1 and found[0].startswith(says), found


def test_a_rate_of_zero_is_drawn_and_a_failed_run_knows_no_result(tmp_path: Path) -> None:
    render([make_record(lr=0.0), make_record(lr=1e-3), make_record("s4", lr=0.0)], figures=True)
    record = make_record(failed=True)
    record["result"]["metrics"] = {"16": [1]}
    assert problems_of(record) == ["result.metrics: expected null in a run that failed"]


def test_other_measures_stand_in_other_columns() -> None:
    one, other = make_record(), make_record(seed=1)
    for record in (one, other):
        record["identity"] |= {"board": "b", "column": "c", "entry": "e"}
    other["result"]["metric"] = "last_accuracy"
    (board,) = aggregate([one, other])
    assert [(column.name, column.metric) for column in board.columns] == [
        ("c", "sequence_accuracy"),
        ("c (last_accuracy)", "last_accuracy"),
    ]
