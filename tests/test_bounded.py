"""Files of somebody else cost what their size says, and no more."""

import json
import os
import tracemalloc
from pathlib import Path

import pytest

from seqmix import _bounded
from seqmix._bounded import MAX_YAML, parse_yaml, read_json, read_text, top_lines
from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.boards.submissions import read_submission
from seqmix.leaderboard.records.schema import MAX_BYTES
from seqmix.leaderboard.records.store import RunStore, TornLineWarning, read_runs, scan_runs
from tests.leaderboard.example_records import make_record

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 11)
)
TEXT_BOMB = f"a: &a {'x' * 1000}\nb: &b [{', '.join(['*a'] * 100)}]\nc: [{', '.join(['*b'] * 100)}]\n"
MERGE_BOMB = "a0: &a0 {x: 1}\n" + "".join(
    f"a{n}: &a{n} {{<<: [*a{n - 1}, *a{n - 1}, *a{n - 1}]}}\n" for n in range(1, 20)
)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (BOMB, "aliases make more"),
        (TEXT_BOMB, "aliases make more"),
        (MERGE_BOMB, "aliases make more"),
        ("a: &a [*a]", "leads to itself"),
        ("[" * 5000, "brackets within brackets"),
        ("a: !!python/object/apply:os.system [ls]", "expected plain values"),
        ("a: !!binary aGk=", "expected plain values"),
        (f"a: {'x' * MAX_YAML}", "expected at most"),
        ("a: \x00", "not YAML"),
        ("a: [", "not YAML"),
        ("a: {[1]: 2}", "not YAML"),
    ],
)
def test_yaml_that_is_refused(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        parse_yaml(text)


def test_yaml_that_is_read() -> None:
    text = "a: &a {x: 1e-3, y: [.5, 1, yes, null, 2020-01-01]}\nb: *a\nc: {<<: *a, x: 2}\n1: text"
    inner = {"x": 0.001, "y": [0.5, 1, True, None, "2020-01-01"]}
    assert parse_yaml(text) == {"a": inner, "b": inner, "c": inner | {"x": 2}, 1: "text"}
    assert top_lines(text) == {"a": 1, "b": 2, "c": 3, "1": 4}
    assert parse_yaml("") is None and top_lines("") == {} == top_lines("- a")


def test_files_that_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    os.mkfifo(tmp_path / "pipe")
    for place in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ValueError, match="expected a file"):
            read_text(place)
    path.write_bytes(b"\xff")
    with pytest.raises(ValueError, match="not UTF-8: invalid start byte at byte 0"):
        read_text(path)
    path.write_text("12345")
    assert read_text(path, 5) == "12345"
    with pytest.raises(ValueError, match="expected at most 4 bytes, got 5"):
        read_text(path, 4)
    path.write_text("[" * 100_000)
    with pytest.raises(ValueError, match="too many brackets"):
        read_json(path)


@pytest.mark.parametrize("command", ["report", "validate", "page"])
def test_a_bomb_in_meta_is_told(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("meta.yaml", "board.yaml"):
        (folder / name).write_text(BOMB)
    RunStore(folder / "runs.jsonl").append(make_record())
    tracemalloc.start()
    assert main([command, str(folder), *(["--out", str(tmp_path / "site")] if command == "page" else [])]) == 1
    assert tracemalloc.get_traced_memory()[1] < 1 << 27
    tracemalloc.stop()
    assert "meta.yaml: not YAML that can be read: its aliases make more than" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["report", "validate", "page"])
def test_links_that_lead_to_themselves(command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "loop").symlink_to("loop")
    folder = tmp_path / "mine"
    folder.mkdir()
    for name in ("meta.yaml", "runs.jsonl", "check.json", "sub"):
        (folder / name).symlink_to(name)
    (folder / "again").symlink_to(".")
    out = ["--out", str(tmp_path / "site")] if command == "page" else []
    for place in (tmp_path / "loop", folder):
        assert main([command, str(place), *out]) in (1, 2)
    assert "Traceback" not in capsys.readouterr().err
    assert not read_submission(folder).runs


def test_a_line_without_end_costs_what_a_record_may(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    first, second, third = (make_record(seed=seed) for seed in range(3))
    RunStore(path).append(first)
    size = 100 * MAX_BYTES
    for ended in (True, False):
        with path.open("ab") as file:
            file.truncate(file.tell() + size)
            file.seek(0, 2)
            file.write(b"\n" + json.dumps(second).encode() + b"\n" if ended else b"")
        tracemalloc.start()
        records, problems = scan_runs(path)
        assert tracemalloc.get_traced_memory()[1] < 40 * MAX_BYTES
        tracemalloc.stop()
        assert records == [first, second]
        wrong = [f"{path}:{line}: expected at most {MAX_BYTES} bytes, got {size}" for line in (2, 4)]
        assert problems == wrong[: 1 if ended else 2]
    store = RunStore(path)
    store.append(third)
    assert store.records == [first, second, third] and store.problems == wrong
    assert scan_runs(path) == ([first, second, third], wrong)


def test_wrong_lines_are_counted_to_a_thousand(tmp_path: Path) -> None:
    (path := tmp_path / "runs.jsonl").write_text("x\n" * 5000 + json.dumps(make_record()))
    records, problems = scan_runs(path)
    assert len(records) == 1 and len(problems) == 1001 and problems[-1].endswith("which are not told")


def test_a_torn_line_is_still_left_out(tmp_path: Path) -> None:
    (path := tmp_path / "runs.jsonl").write_text(json.dumps(make_record()) + '\n{"schema')
    with pytest.warns(TornLineWarning):
        assert len(read_runs(path)) == 1


def test_every_reader_of_yaml_is_bounded() -> None:
    root = Path(_bounded.__file__).parent
    texts = {path: path.read_text() for path in root.rglob("*.py") if path.name != "_bounded.py"}
    assert not [path for path, text in texts.items() if "yaml.safe_load" in text or "yaml.load(" in text]
