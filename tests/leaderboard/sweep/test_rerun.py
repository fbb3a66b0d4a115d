"""Records that are run again."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from seqmix.commands.leaderboard import records as cli_records
from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records.store import RunStore, read_runs
from seqmix.leaderboard.sweep import rerun
from seqmix.leaderboard.sweep.plan import plan_run
from seqmix.leaderboard.sweep.rerun import differences, find_record
from tests.leaderboard.example_records import make_record

TINY = ["trainer.max_steps=3", "trainer.val_check_interval=2", "data.batch_size=4", "data.eval_size=4"]
TINY += ["data.eval_lengths=[4, 8]", "data.train_length=4", "mixer=lstm"]


@pytest.mark.slow
def test_a_run_gives_the_same_record_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "runs.jsonl"
    assert main(["run", "parity", "--lr", "1e-3", "--seeds", "3", "--set", *TINY, "--store", str(path)]) == 0
    (record,) = read_runs(path)
    capsys.readouterr()
    assert main(["rerun", record["id"][:6], "--store", str(path)]) == 0
    assert "the result is the same" in capsys.readouterr().out
    again = rerun.rerun(record)
    assert (again["identity"]["settings"], again["id"]) == (record["identity"]["settings"], record["id"])
    assert not differences(record, again), "not a digit differs"


def test_what_differs_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    record, again = make_record(), make_record(accuracies={16: 0.98, 64: 0.75})
    store = RunStore(tmp_path / "runs.jsonl")
    store.append(record)
    monkeypatch.setattr(rerun, "rerun", lambda record, **_: again)
    argv = ["rerun", record["id"][:6], "--store", str(store.path)]
    assert main(argv) == 1
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    measures = [f"result.metrics.16.{measure}" for measure in ("last", "seq", "tok")]
    assert lines[1:] == [["field", "record", "again"], *([measure, "1.0", "0.98"] for measure in measures)]
    again["repro"]["torch"] = "1.0"
    assert main(argv) == 0
    out = capsys.readouterr().out
    assert "torch: 2.13.0 there, 1.0 here" in out and "the result is the same within 0.05" in out
    assert main([*argv, "--tolerance", "0.01"]) == 1
    monkeypatch.setattr(rerun, "rerun", lambda record, **_: record)
    assert main(argv) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "the result is the same"
    monkeypatch.setattr(rerun, "rerun", lambda record, **_: make_record(failed=True))
    assert main(argv) == 1
    assert "it failed: exit status 1" in capsys.readouterr().out


def changed(record: dict[str, Any], field: str, value: Any) -> dict[str, Any]:
    made = json.loads(json.dumps(record))
    *path, last = field.split(".")
    target = made
    for key in path:
        target = target[key]
    target[last] = value
    return made


@pytest.mark.parametrize(
    ("field", "value", "exact", "near"),
    [
        ("result.metrics.16.seq", 0.97, True, False),
        ("result.metrics.16.seq", 0.9, True, True),
        ("result.metrics.16.loss", 0.51, True, False),
        ("result.metrics.16.loss", 0.6, True, True),
        ("result.metrics.16.n", 511, True, True),
        ("result.validation.accuracy", 0.98, True, False),
        ("result.curve", [], True, False),
        ("training.steps", 7, True, False),
        ("size.params_total", 7, True, True),
        ("identity.task_version", "f" * 16, True, True),
        ("result.diverged", True, True, True),
        ("status", "failed", True, True),
        ("cost.train_seconds", 7.0, False, False),
        ("repro.utc", "now", False, False),
    ],
)
def test_what_counts_as_a_difference(field: str, value: Any, exact: bool, near: bool) -> None:
    record = make_record()
    again = changed(record, field, value)
    assert not differences(record, copy.deepcopy(record))
    assert [d.field for d in differences(record, again)] == [field] * exact
    assert [d.field for d in differences(record, again, 0.05)] == [field] * near


def test_sets_that_are_missing_differ() -> None:
    record, fewer = make_record(), make_record(accuracies={16: 1.0})
    found = {d.field: (d.recorded, d.again) for d in differences(record, fewer, 0.5)}
    assert found["result.metrics.64.seq"] == (0.75, None)
    assert "size.state_size" in found
    failed = make_record(failed=True)
    assert {"status", "result.metrics.16.seq"} <= {d.field for d in differences(record, failed, 0.5)}
    assert not differences(failed, copy.deepcopy(failed))


def test_ids() -> None:
    records = [make_record(seed=0), make_record(seed=1, failed=True), make_record(seed=1, attempt=2)]
    assert find_record(records, records[0]["id"][:4]) is records[0]
    assert find_record(records, records[1]["id"]) is records[2]
    for id, message in (("0123456789", "which is none of 2 runs"), ("", "which is the beginning of 2")):
        with pytest.raises(ValueError, match=message):
            find_record(records, id)
    with pytest.raises(ValueError, match="its first 4 digits and more"):
        find_record(records, records[0]["id"][:3])


def test_settings_that_were_edited_are_another_run(tmp_path: Path) -> None:
    run = plan_run("parity", ["optimizer.lr=3e-05"], 0, board="b", entry="e", column="c")
    record = make_record()
    record["identity"] |= {"config": "parity", "settings": json.loads(json.dumps(run.settings)), "seed": 0}
    record["identity"] |= {"board": "b", "entry": "e", "column": "c"}
    record["id"] = run.id
    assert rerun.planned(record, tmp_path) == plan_run(
        str(tmp_path / "parity.json"), (), 0, board="b", entry="e", column="c"
    )
    record["identity"]["settings"]["model"]["d_model"] = 33
    with pytest.raises(ValueError, match=rf"record {run.id}: its settings, seed and place on a board are those of"):
        rerun.planned(record, tmp_path)


def test_shipped_records_can_be_planned_again(tmp_path: Path) -> None:
    for path in (Path(__file__).parents[3] / "docs/results").glob("*.jsonl"):
        if path.name != "shift-k.jsonl":
            for record in read_runs(path)[:3]:
                assert rerun.planned(record, tmp_path).settings == record["identity"]["settings"]


def test_mistakes_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunStore(tmp_path / "runs.jsonl")
    store.append(make_record())
    assert main(["rerun", "0000", "--store", str(store.path)]) == 2
    assert "ID: expected the id of one run" in capsys.readouterr().err
    assert main(["rerun", "0000", "--store", str(store.path), "--tolerance", "0"]) == 2
    assert "--tolerance: expected a number in (0, 1), got 0.0" in capsys.readouterr().err
    assert cli_records.__all__ == ["add_commands"]
