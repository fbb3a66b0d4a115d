"""What validates renders: reports, pages, figures and Parquet of records from the schema's whole range."""

import argparse
import contextlib
import io
import itertools
import json
import math
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.page import figures
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


def many(first: int, count: int, progress: Callable[[], None] = lambda: None) -> None:
    """Render `count` examples that follow from the number `first`; the smallest that does not render is an error."""

    @seed(first)
    @settings(SETTINGS, max_examples=count)
    @given(records())
    def renders(made: list[Record]) -> None:
        progress()
        render(made, figures=True)

    with pytest.MonkeyPatch.context() as patch:
        # Both take a second each; half of the examples have the one and half the other.
        patch.setattr(figures, "_KINDS", (("png",), ("svg",))[first // count % 2])
        renders()


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 2000, 100))
def test_what_validates_renders(first: int) -> None:
    """More of them, or some alone: `python -m tests.leaderboard.test_any_record 2000 --first 500`."""
    many(first, 100)


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


def test_a_run_that_was_never_validated_is_shown_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = [make_record(lr=lr) for lr in (1e-3, 1e-2)]
    made[1]["result"] |= {"curve": [], "validation": None, "best_step": None, "steps_to": {}}
    path = tmp_path / "runs.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in made))
    assert main(["page", str(path), "--out", str(tmp_path / "site"), "--figures", str(tmp_path)]) == 0
    pages = [page.read_text() for page in (tmp_path / "site").rglob("*.html")]
    assert sum("ever validated, and counted as the worst where the rate was chosen" in page for page in pages) == 1
    assert sum("Never validated, counted as the worst where the rate was chosen" in page for page in pages) >= 1
    for kind in ("summary", "board"):
        assert main(["report", str(path), "--kind", kind]) == 0
        assert "1 run was never validated and counted as the worst in that choice." in capsys.readouterr().out


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


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Render records from the whole range of the schema.")
    parser.add_argument("count", type=int, nargs="?", default=2000, help="a multiple of 100")
    parser.add_argument("--first", type=int, default=0, help="a multiple of 100")
    options = parser.parse_args()
    tried: list[float] = [time.monotonic()]
    for first in range(options.first, options.first + options.count, 100):
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            many(first, 100, lambda: tried.append(time.monotonic()))
        print(f"{first} to {first + 99}: {len(tried) - 1} rendered, {tried[-1] - tried[0]:.0f} s", flush=True)
    slowest = max(later - one for one, later in itertools.pairwise(tried))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000
    print(f"{len(tried) - 1} examples, all rendered; the slowest took {slowest:.1f} s, peak {peak:.0f} MB")
