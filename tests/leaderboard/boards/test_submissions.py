"""Submissions: every way in which one can be wrong is told by file and line, and nothing else is dropped."""

import copy
import json
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard import read_submission, read_submissions
from seqmix.leaderboard.boards import checks as submission_checks
from seqmix.leaderboard.boards.board import load_board
from seqmix.leaderboard.boards.checks import check_submission, spot_check
from seqmix.leaderboard.boards.plan import BoardPlan
from seqmix.leaderboard.boards.submission_gate import in_folder
from seqmix.leaderboard.records.schema import MAX_BYTES, config_hash
from seqmix.leaderboard.summary.aggregate import aggregate
from seqmix.leaderboard.sweep.plan import Run
from seqmix.tasks.registry import create_task
from tests.leaderboard.example_records import make_record

Record = dict[str, Any]
META = """name: mine
authors: [A. Nonymous]
url: https://example.org/mine
licence: MIT
description: Running means.
tuning: nothing but the rates of the board
"""
BOARD = """name: tiny
budget: {parameters: 3000}
tasks:
  parity: {config: parity, set: {trainer.max_steps: 4, trainer.val_check_interval: 2, data.batch_size: 4,
    data.eval_size: 4, data.eval_lengths: [4, 8], data.train_length: 4}}
mixers:
  mine: {module: layer_of_theirs.Mine}
rates: [0.001, 0.01]
seeds: {grid: [0], best: [0, 1]}
"""
MODULE = "layer_of_theirs"
TRUST = ["--trust", MODULE]
LAYER = """
import torch
from torch import nn

class Mine(nn.Module):
    def __init__(self, d_model):
        super().__init__()
        self.proj = nn.Linear(d_model, d_model)

    def forward(self, x):
        steps = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.proj(x).cumsum(1) / steps
"""


def record_of(run: Run, version: str, validation: float) -> Record:
    record = make_record(run.name, run.seed, lr=run.settings["optimizer"]["lr"], validation=validation)
    settings = run.settings
    record["id"] = run.id
    record["identity"] |= {"settings": settings, "config_hash": config_hash(settings), "overrides": [*run.overrides]}
    record["identity"] |= {"board": run.board, "entry": run.entry, "column": run.column, "task": "parity"}
    task = {key: value for key, value in settings["data"].items() if key != "name"} | {"group": "Z2"}
    record["identity"] |= {"task_kwargs": task, "task_version": version, "mixer": settings["mixer"]["name"]}
    row = {"last": 0.75, "seq": 0.5, "tok": 0.9, "loss": 0.5, "n": 4}
    record["result"] |= {"metric": "last_accuracy", "chance": 0.5, "train_length": 4, "steps_to": {"0.99": None}}
    record["result"] |= {"metrics": {"4": row, "8": dict(row)}}
    record["size"] |= {"state_size": {"4": None, "8": None}, "state_bytes": None}
    record["training"] |= {"steps": 500, "max_steps": 500}
    record["cost"] |= {"train_seconds": 60.0 - run.seed}
    return record


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Record], Record]:
    """The records that the board plans, and one that it does not."""
    folder = tmp_path_factory.mktemp("good")
    (folder / "board.yaml").write_text(BOARD)
    (folder / "layer_of_theirs.py").write_text(LAYER)
    with in_folder(folder, [MODULE]):
        plan = BoardPlan(load_board(Path("board.yaml"), trust=[MODULE]))
        grid = plan.runs({})
        task = grid[0].settings["data"]
        version = create_task(**task).version()
        records = [record_of(run, version, 1.0 if run.settings["optimizer"]["lr"] == 0.01 else 0.5) for run in grid]
        runs = plan.runs({record["id"]: record for record in records})
        records += [record_of(run, version, 1.0) for run in runs if run not in grid]
        (cell,) = plan.cells
        other = record_of(cell.run(0.5, 7), version, 0.5)
    assert len(records) == 3
    return records, other


@pytest.fixture
def folder(tmp_path: Path, good: tuple[list[Record], Record], monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    path = tmp_path / "mine"
    path.mkdir()
    (path / "meta.yaml").write_text(META)
    (path / "board.yaml").write_text(BOARD)
    (path / "layer_of_theirs.py").write_text(LAYER)
    write(path, good[0])
    before = [*sys.path], Path.cwd()
    yield path
    assert ([*sys.path], Path.cwd()) == before and "layer_of_theirs" not in sys.modules


def write(folder: Path, records: list[Any]) -> None:
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "runs.jsonl").write_text("".join(f"{line}\n" for line in lines))


def test_pages_say_who_and_whether_a_run_was_made_again(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    site = folder.parent / "site"

    def pages() -> tuple[str, str]:
        assert main(["page", str(folder), "--out", str(site)]) == 0
        return (site / "index.html").read_text(), (site / "tiny/mine-mine/index.html").read_text()

    overview, entry = pages()
    assert re.search(r'class="tag" title="[^"]*none of its runs was made again">self-reported<', overview)
    assert '<a href="https://example.org/mine" rel=nofollow>' in entry
    for text in ("A. Nonymous", "MIT", "Running means.", "nothing but the rates of the board", "self-reported"):
        assert text in entry
    monkeypatch.setattr(submission_checks, "rerun", lambda record, **_: record)
    spot_check(check_submission(folder, trust=[MODULE]), trust=[MODULE])
    overview, entry = pages()
    assert re.search(r'class="tag good" title="[^"]*with the same result">re-run<', overview) and ">re-run<" in entry
    monkeypatch.setattr(submission_checks, "rerun", lambda record, **_: changed(record, "result.metrics.4.last", 0.5))
    spot_check(check_submission(folder, trust=[MODULE]), trust=[MODULE])
    assert "with another result" in pages()[1]
    # Records without the folder: nobody knows.
    (folder.parent / "theirs.jsonl").write_text((site / "tiny/data/runs.jsonl").read_text())
    assert main(["page", str(folder.parent / "theirs.jsonl"), "--out", str(site)]) == 0
    assert "its folder is not at hand" in (site / "tiny/mine-mine/index.html").read_text()
    capsys.readouterr()
    assert main(["report", str(folder), "--kind", "board"]) == 0
    assert "| mine/mine |" in capsys.readouterr().out


def test_what_meta_says_is_escaped_and_links_go_to_the_web(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = META.replace("https://example.org/mine", "javascript:alert(1)").replace("[A. Nonymous]", "['<b>A']")
    (folder / "meta.yaml").write_text(text.replace("licence: MIT", "licence: 3"))
    assert main(["page", str(folder), "--out", str(folder.parent / "site")]) == 1
    assert "url: expected where code or paper is" in capsys.readouterr().err
    page = (folder.parent / "site/tiny/mine-mine/index.html").read_text()
    assert 'href="javascript' not in page and "javascript:alert(1)" in page
    assert "&lt;b&gt;A" in page and "<b>A" not in page and "Licence" not in page


def test_a_good_one_has_no_problems(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = check_submission(folder, trust=[MODULE])
    assert found.problems == [] and (found.name, found.badge, len(found.runs)) == ("mine", "self-reported", 3)
    (board,) = aggregate(found.records)
    assert [(entry.name, entry.submission) for entry in board.entries] == [("mine/mine", "mine")]
    assert [each.meta["licence"] for each in read_submissions(folder.parent)] == ["MIT"]
    assert main(["validate", str(folder), "--no-spot-check", *TRUST]) == 0
    assert f"{folder}: 3 records, 0 problems; self-reported" in capsys.readouterr().out


def changed(record: Record, field: str, value: Any) -> Record:
    made = copy.deepcopy(record)
    *path, last = field.split(".")
    target = made
    for key in path:
        target = target[key]
    if value is ...:
        del target[last]
    else:
        target[last] = value
    return made


SEQ = "result.metrics.4.seq"
WRONG_LINES = [
    ("schema_version", 3, "schema_version: expected 1 to 2, got 3, which a newer seqmix has written"),
    ("colour", "red", "colour: unknown field"),
    ("size.params_total", ..., "size.params_total: missing"),
    (SEQ, float("nan"), "result.metrics.4.seq: NaN in a run that did not diverge"),
    (SEQ, 1.5, "result.metrics.4.seq: expected an accuracy in [0, 1], got 1.5"),
    (SEQ, 0.4, "result.metrics.4.seq: 0.4 is no share of 4 sequences"),
    (SEQ, 1.0, "result.metrics.4: more whole sequences are right than last positions"),
    ("result.metrics.4.n", 512, "result.metrics: expected all test sets, {'4': 4, '8': 4}, got {'4': 512, '8': 4}"),
    ("result.metrics.8", ..., "result.metrics: expected all test sets"),
    ("result.chance", 0.1, "result.chance: expected 0.5, got 0.1"),
    ("identity.task_version", "0" * 16, "of this version, got 0000000000000000"),
    (
        "identity.settings.data.group",
        "S9",
        "identity.task: cannot be built here: unknown argument of task 'parity': 'g",
    ),
    ("identity.task", "mqar", "identity.task: cannot be built here: its settings have another under data"),
    ("identity.submission", "theirs", "identity.submission: expected 'mine', got 'theirs'"),
    ("identity.config_hash", "0" * 16, "identity.config_hash: expected"),
    ("identity.settings.data.files", "../../secret.txt", "identity.settings.data.files: a path out of the folder"),
    ("identity.overrides", ["data.files=/etc/passwd"], "identity.overrides.0: a path out of the folder"),
    (
        "id",
        "f" * 16,
        "id: board.yaml plans no such run: board, row, config, size, learning rate or seed of tiny/parity",
    ),
    ("training.lr", 0.0, "training.lr: expected a positive number, got 0.0"),
    ("training.steps", 501, "training.steps: expected at most max_steps = 500, got 501"),
    ("result.curve", [{"step": 501, "accuracy": 1.0, "loss": 0.0}], "result."),
    ("cost.train_seconds", 1e6, "cost.train_seconds: expected at most wall_seconds"),
    ("reason", "x" * MAX_BYTES, f"expected at most {MAX_BYTES} bytes"),
]


@pytest.mark.parametrize(("field", "value", "message"), WRONG_LINES, ids=[f"{f}={v!r:.12}" for f, v, _ in WRONG_LINES])
def test_wrong_lines_are_told_and_the_others_stay(
    folder: Path, good: tuple[list[Record], Record], field: str, value: Any, message: str
) -> None:
    records, _ = good
    write(folder, [records[0], changed(records[1], field, value), records[2]])
    found = check_submission(folder, trust=[MODULE])
    told = [problem for problem in found.problems if problem.startswith(f"{folder / 'runs.jsonl'}:2: ")]
    assert any(message in problem for problem in told), found.problems
    assert {record["id"] for record in found.records} >= {records[0]["id"], records[2]["id"]}
    assert not [problem for problem in found.problems if ":1: " in problem or ":3: " in problem]


def test_duplicates_runs_that_are_not_planned_and_runs_that_are_missing(
    folder: Path, good: tuple[list[Record], Record]
) -> None:
    records, other = good
    write(folder, [*records, records[0], changed(records[0], "id", "e" * 16), other])
    problems = check_submission(folder, trust=[MODULE]).problems
    lines = folder / "runs.jsonl"
    assert f"{lines}:4: id: {records[0]['id']}, attempt 1 stands in line 1 already" in problems
    assert f"{lines}:5: the same task, config and seed stand in line 1 already" in problems
    assert [p for p in problems if p.startswith(f"{lines}:6: id: board.yaml plans no such run")]
    write(folder, records[:2])
    assert check_submission(folder, trust=[MODULE]).problems == [
        f"{lines}: missing: parity mine, learning rate 0.01, seed 1"
    ]
    write(folder, records[:1])
    problems = check_submission(folder, trust=[MODULE]).problems
    assert problems == [
        f"{lines}: missing: parity mine, learning rate 0.01, seed 0",
        f"{lines}: missing: parity mine, further seeds",
    ]
    write(folder, [])
    assert len(check_submission(folder, trust=[MODULE]).problems) == 3
    with pytest.raises(ValueError, match="there is no run that came to its end"):
        spot_check(check_submission(folder, trust=[MODULE]))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            "name: mine",
            "name: yours",
            "meta.yaml:1: name: expected the name of the folder: letters a-z, digits, - and _",
        ),
        ("authors: [A. Nonymous]", "authors: []", "meta.yaml:2: authors: expected a list of names, got []"),
        ("authors: [A. Nonymous]", "authors: [3]", "meta.yaml:2: authors: expected a list of names, got [3]"),
        ("https://example.org/mine", "example.org", "meta.yaml:3: url: expected where code or paper is"),
        ("licence: MIT", "license: MIT", "meta.yaml:4: unknown field 'license'; did you mean 'licence'"),
        ("licence: MIT\n", "", "meta.yaml: licence: missing, of the code, as MIT or Apache-2.0"),
        ("description: Running means.", "description: ' '", "meta.yaml:5: description: expected what the layer is"),
        ("tuning: nothing", "tuning: [nothing", "meta.yaml:7: not YAML"),
        (META, "- a\n", "meta.yaml:1: expected name, authors, url"),
    ],
)
def test_wrong_meta(folder: Path, old: str, new: str, message: str) -> None:
    (folder / "meta.yaml").write_text(META.replace(old, new))
    problems = read_submission(folder).problems
    assert any(f"{folder}/{message}" in problem for problem in problems), problems
    assert len(read_submission(folder).runs) == 3


def test_wrong_boards(folder: Path) -> None:
    def problems(text: str) -> list[str]:
        (folder / "board.yaml").write_text(text)
        return check_submission(folder, trust=[MODULE]).problems

    where = folder / "board.yaml"
    layer = "mixers: {mine: {module: layer_of_theirs.Mine}}\n"
    (told,) = problems("base: cpu\ntasks: [parity]\nrates: [0.001]\n" + layer)
    assert told == f"{where}: rates: board 'cpu' has another one; `base: cpu` takes it"
    told = problems("base: cpu\ntasks: {parity: parity}\n" + layer)[0]
    assert told == f"{where}: tasks.parity: board 'cpu' has another one; `base: cpu` takes it"
    (told,) = problems("base: cpu\nmixers: {mine: {module: layer_of_their.Mine}}\n")
    assert told.startswith(f"{where}: board board.yaml: mixers.mine names 'layer_of_their'") and "--trust" in told
    (told,) = problems("base: cpu\nmixers: {mine: {module: layer_of_theirs.Main}}\n")
    assert told.startswith(f"{where}: ") and "unknown class of layer_of_theirs 'Main'" in told
    told = problems("base: cpu\ntasks: [parity]\n" + layer)[0]
    assert told.startswith(f"{folder / 'runs.jsonl'}:1: id: board.yaml plans no such run")
    where.unlink()
    assert check_submission(folder, trust=[MODULE]).problems == [f"{where}: missing"]


def test_links_out_of_the_folder_are_not_read(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.jsonl"
    (folder / "runs.jsonl").rename(outside)
    (folder / "runs.jsonl").symlink_to(outside)
    (folder / "inside").symlink_to(folder / "meta.yaml")
    found = read_submission(folder)
    assert found.problems == [f"{folder / 'runs.jsonl'}: a link that leads out of the folder"]
    assert found.runs == []
    with pytest.raises(ValueError, match="expected the folder of a submission, got nothing"):
        read_submission(tmp_path / "nowhere")


def test_spot_check_is_of_the_cheapest_run_and_stands_beside(
    folder: Path, good: tuple[list[Record], Record], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Record] = []

    def again(change: Callable[[Record], Record]) -> None:
        monkeypatch.setattr(submission_checks, "rerun", lambda record, **_: tried.append(record) or change(record))

    again(lambda record: record)
    assert main(["validate", str(folder), *TRUST]) == 0
    assert "3 records, 0 problems; re-run" in capsys.readouterr().out
    assert [record["identity"]["seed"] for record in tried] == [1], "a second less than the others"
    check = json.loads((folder / "check.json").read_text())
    assert (check["id"], check["differences"], check["tolerance"]) == (tried[0]["id"], [], 0.0)
    assert read_submission(folder).badge == "re-run"

    again(lambda record: changed(record, "result.metrics.4.last", 0.5))
    assert main(["validate", str(folder), *TRUST]) == 1
    told = capsys.readouterr()
    assert f"{folder / 'runs.jsonl'}:3: run again: result.metrics.4.last: 0.75 in the record, 0.5 now" in told.err
    assert "3 records, 1 problems; self-reported" in told.out and read_submission(folder).badge == "self-reported"

    again(lambda record: make_record(failed=True))
    assert main(["validate", str(folder), *TRUST]) == 1
    assert "run again it failed: exit status 1 MemoryError" in capsys.readouterr().err

    again(lambda record: record)
    assert main(["validate", str(folder), *TRUST]) == 0
    write(folder, good[0][:2])
    assert read_submission(folder).badge == "self-reported", "what was checked is not what is there now"
    (folder / "check.json").write_text("{}")
    assert read_submission(folder).problems == [
        f"{folder / 'check.json'}: expected what `seqmix leaderboard validate` writes"
    ]
