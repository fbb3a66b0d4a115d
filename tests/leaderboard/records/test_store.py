"""Files of records: whole lines or none, many writers, problems by file and line."""

import json
import os
import random
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from seqmix.leaderboard.records.checks import problems_of
from seqmix.leaderboard.records.schema import MAX_BYTES, SCHEMA_VERSION, config_hash
from seqmix.leaderboard.records.store import RunStore, TornLineWarning, latest, read_runs, scan_runs
from seqmix.leaderboard.sweep.claims import Claims
from tests.leaderboard.example_records import make_record

Record = dict[str, Any]
ROOT = Path(__file__).parents[3]
WRITER = """
import sys
from seqmix.leaderboard.records.store import RunStore
from tests.leaderboard.example_records import make_record

path, writer, first, count = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
store = RunStore(path)
for seed in range(first, first + count):
    store.append(make_record(writer, seed))
    print(seed, flush=True)
"""


def write_lines(path: Path, *lines: str | Record) -> Path:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return path


def start_writer(path: Path, name: str, first: int, count: int) -> "subprocess.Popen[bytes]":
    command = [sys.executable, "-W", "ignore", "-c", WRITER, str(path), name, str(first), str(count)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    records = [make_record(seed=0), make_record(seed=1, failed=True), make_record(seed=2, diverged=True)]
    for record in records:
        RunStore(path).append(record)
    assert read_runs(path) == records
    assert path.read_bytes().count(b"\n") == 3
    other = RunStore(path)
    assert other.refresh() == records
    RunStore(path).append(make_record(seed=3))
    assert len(other.refresh()) == 4


def test_lines_are_values_by_themselves(tmp_path: Path) -> None:
    good = [make_record(seed=seed) for seed in range(3)]
    pair = f"{json.dumps(make_record(seed=3))},{json.dumps(make_record(seed=4))}"
    opened, closed = '{"a": [1', "2]}"
    path = write_lines(tmp_path / "runs.jsonl", good[0], opened, closed, pair, "", "null", good[1], good[2])
    records, problems = scan_runs(path)
    assert records == good
    assert [problem.split(":")[1] for problem in problems] == ["2", "3", "4", "6"]


def test_many_writers_at_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    writers = [start_writer(path, f"w{k}", 0, 50) for k in range(8)]
    for writer in writers:
        writer.communicate()
        assert writer.returncode == 0
    seen = sorted((r["identity"]["config"], r["identity"]["seed"]) for r in read_runs(path))
    assert seen == [(f"w{k}", seed) for k in range(8) for seed in range(50)]


def test_many_threads_at_once(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"

    def write(name: str) -> None:
        for seed in range(20):
            RunStore(path).append(make_record(name, seed))

    threads = [threading.Thread(target=write, args=(f"t{k}",)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(read_runs(path)) == 80


def test_killed_writers_lose_nothing_that_was_written(tmp_path: Path) -> None:
    path, wait, acknowledged = tmp_path / "runs.jsonl", random.Random(0), set()
    for turn in range(4):
        writer = start_writer(path, "w", 100_000 * turn, 100_000)
        assert writer.stdout is not None
        acknowledged.add(int(writer.stdout.readline()))
        time.sleep(wait.uniform(0, 0.1))
        writer.kill()
        acknowledged |= {int(line) for line in writer.stdout.read().decode().splitlines(keepends=True) if "\n" in line}
        writer.wait()
        writer.stdout.close()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TornLineWarning)  # a kill in the middle of a write leaves half a line, or none
        RunStore(path).append(make_record("after"))
    seen = [r["identity"]["seed"] for r in read_runs(path) if r["identity"]["config"] == "w"]
    assert acknowledged <= set(seen)
    assert len(seen) == len(set(seen)) <= len(acknowledged) + 4


def test_torn_last_line_is_told_and_removed(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    RunStore(path).append(make_record(seed=0))
    whole = path.read_bytes()
    path.write_bytes(whole + whole[: len(whole) // 2])
    with pytest.warns(TornLineWarning, match=rf"{path}:2: .* never finished; it is left out"):
        records, problems = scan_runs(path)
    assert (len(records), problems) == (1, [])
    with pytest.warns(TornLineWarning, match=rf"{path}:2: .* it is removed"):
        RunStore(path).append(make_record(seed=1))
    assert [r["identity"]["seed"] for r in read_runs(path)] == [0, 1]


@pytest.mark.parametrize(
    "content",
    [
        *("a\nb", "a\n", "base: parity\n", '{\n  "x": 1\n}', "half a sentence", '{"x": ', '{"x": 1}'),
        pytest.param("a" * (MAX_BYTES + 1), id="a line without end"),
    ],
)
def test_a_file_that_is_no_store_is_left_as_it_is(tmp_path: Path, content: str) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(content)
    for call in (RunStore(path).require_store, lambda: RunStore(path).append(make_record())):
        with pytest.raises(ValueError, match=r"mine.txt (is no file of records|ends with what is no record)"):
            call()
    assert path.read_text() == content


def test_last_line_without_its_end_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    path.write_text(json.dumps(make_record(seed=0)))
    assert len(read_runs(path)) == 1
    RunStore(path).append(make_record(seed=1))
    assert [r["identity"]["seed"] for r in read_runs(path)] == [0, 1]


def test_full_disk_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "runs.jsonl"
    store = RunStore(path)
    store.append(make_record(seed=0))
    before, write = path.read_bytes(), os.write
    with monkeypatch.context() as patch:
        patch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:100]))
        with pytest.raises(OSError, match="no space for a record"):
            store.append(make_record(seed=1))
    assert path.read_bytes() == before
    store.append(make_record(seed=1))
    assert len(read_runs(path)) == 2


def test_replaced_file_is_read_anew(tmp_path: Path) -> None:
    path = tmp_path / "runs.jsonl"
    store = RunStore(path)
    store.append(make_record(seed=0))
    write_lines(tmp_path / "other", make_record(seed=5)).rename(path)
    store.append(make_record(seed=0))
    assert [r["identity"]["seed"] for r in store.records] == [5, 0]


def set_at(*keys: str) -> Callable[[Record, Any], None]:
    def change(record: Record, value: Any) -> None:
        *path, last = keys
        for key in path:
            record = record[key]
        if value is ...:
            del record[last]
        else:
            record[last] = value

    return change


SEQ = ("result", "metrics", "16", "seq")
WRONG = [
    (("colour",), "red", "colour: unknown field"),
    (("size", "colour"), "red", "size.colour: unknown field"),
    (("schema_version",), 3, "schema_version: expected 1 to 2, got 3, which a newer seqmix has written"),
    (("schema_version",), 0, "schema_version: expected 1 to 2, got 0"),
    (("schema_version",), True, "schema_version: expected 1 to 2, got True"),
    (("schema_version",), ..., "schema_version: expected 1 to 2, got None"),
    (("schema_version",), 1, "identity.board: unknown field"),
    (("identity", "config_hash"), ..., "identity.config_hash: missing"),
    (("size", "state_bytes"), {"16": -1}, "size.state_bytes.16: expected a number of at least 0, got int -1"),
    (("result", "validation"), {"step": 1}, "result.validation: expected a point of the curve, got another"),
    (("size", "params_total"), ..., "size.params_total: missing"),
    (("size", "params_total"), 1.5, "size.params_total: expected int, got float 1.5"),
    (("size", "params_total"), True, "size.params_total: expected int, got bool True"),
    (("size", "params_total"), -1, "size.params_total: expected a number of at least 0, got int -1"),
    (("cost",), None, "cost: expected an object, got null"),
    (SEQ, float("nan"), "result.metrics.16.seq: NaN in a run that did not diverge"),
    (SEQ, None, "result.metrics.16.seq: null in a run that did not diverge"),
    (SEQ, 1.5, "result.metrics.16.seq: expected an accuracy in [0, 1], got 1.5"),
    (SEQ, ..., "result.metrics.16: expected last, seq, tok, loss and n, got last, tok, loss, n"),
    (("result", "metrics"), {}, "result.metrics: a run that did not diverge must have some, got none"),
    (("result", "metrics"), {" ": {}}, "result.metrics. : expected a length or the name of a test set"),
    (("result", "metrics", "16", "free_seq"), 2.0, "result.metrics.16.free_seq: expected an accuracy in [0, 1]"),
    (("result", "curve"), [{"step": 1}], "result.curve.0: expected step, accuracy and loss"),
    (("result", "diverged"), True, "reason: a run that failed or diverged must have one"),
    (("result", "certificate"), {}, "result.certificate: expected {certified: true or false, ...}, got {}"),
    (("status",), "done", "status: expected 'ok' or 'failed', got 'done'"),
    (("id",), "A5", "id: expected 16 hex digits, got 'A5'"),
    (("attempt",), 0, "attempt: expected at least 1, got 0"),
]


@pytest.mark.parametrize(("keys", "value", "message"), WRONG, ids=[f"{'.'.join(k)}={v!r:.12}" for k, v, _ in WRONG])
def test_wrong_fields_are_told_by_file_and_line(tmp_path: Path, keys: Any, value: Any, message: str) -> None:
    wrong = make_record(seed=1)
    set_at(*keys)(wrong, value)
    path = write_lines(tmp_path / "runs.jsonl", make_record(seed=0), wrong, make_record(seed=2))
    records, problems = scan_runs(path)
    assert [r["identity"]["seed"] for r in records] == [0, 2]
    assert [p for p in problems if p.startswith(f"{path}:2: ") and message in p], problems
    with pytest.raises(ValueError, match="expected one record a line"):
        read_runs(path)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"record for .*runs\.jsonl"):
        RunStore(path).append(wrong)
    assert path.read_bytes() == before


def test_records_of_version_1_are_upgraded(tmp_path: Path) -> None:
    files = [path for path in (ROOT / "docs/results").glob("*.jsonl") if path.name != "shift-k.jsonl"]
    old = {path: [json.loads(line) for line in path.read_text().splitlines()] for path in files}
    assert sum(record["schema_version"] == 1 for records in old.values() for record in records) > 100
    for path, lines in old.items():
        for line, record in zip(lines, read_runs(path), strict=True):
            assert record["schema_version"] == SCHEMA_VERSION and not problems_of(record)
            if line["schema_version"] == 1:
                assert record["identity"]["config_hash"] == config_hash(line["identity"]["settings"])
                assert record["identity"]["board"] is None and record["cost"]["cpu_seconds"] is None
            for section, values in line.items():
                if isinstance(values, dict):
                    assert values.items() <= record[section].items()
    again = RunStore(tmp_path / "again.jsonl")
    again.append(read_runs(files[0])[0])
    assert read_runs(again.path) == read_runs(files[0])[:1]


def test_hash_of_a_config_is_not_of_its_seed() -> None:
    one, other = (config_hash({"mixer": {"name": "lstm"}, "seed_everything": seed}) for seed in (0, 1))
    assert one == other != config_hash({"mixer": {"name": "lru"}, "seed_everything": 0})


def test_lines_that_are_no_records(tmp_path: Path) -> None:
    first = make_record(seed=0)
    path = write_lines(tmp_path / "runs.jsonl", first, "{", "[1]", "", first, "x" * MAX_BYTES)
    records, problems = scan_runs(path)
    assert records == [first]
    assert [p.removeprefix(f"{path}:")[:30] for p in problems] == [
        "2: not JSON: Expecting propert",
        "3: expected a JSON object, got",
        f"5: id: {first['id']}, attem",
        "6: expected at most 1048576 by",
    ]
    with pytest.raises(ValueError, match=r"/nowhere: expected a file of records"):
        scan_runs("/nowhere")


def test_not_a_number_is_kept_in_a_run_that_diverged(tmp_path: Path) -> None:
    record = make_record()
    record["result"]["diverged"], record["reason"] = True, "a test loss is not finite"
    record["result"]["metrics"]["16"]["loss"] = float("nan")
    RunStore(tmp_path / "runs.jsonl").append(record)
    assert read_runs(tmp_path / "runs.jsonl")[0]["result"]["metrics"]["16"]["loss"] is None


def test_duplicates_and_giants_are_refused(tmp_path: Path) -> None:
    store = RunStore(tmp_path / "runs.jsonl")
    store.append(make_record(failed=True))
    with pytest.raises(ValueError, match="attempt 1 stands in line 1 already"):
        RunStore(store.path).append(make_record(failed=True))
    with pytest.raises(ValueError, match="expected at most 1048576 bytes"):
        store.append(make_record(seed=1, note="x" * MAX_BYTES))
    store.append(make_record(attempt=2))
    assert [(r["attempt"], r["status"]) for r in latest(store.records)] == [(2, "ok")]


def test_one_claim_a_run(tmp_path: Path) -> None:
    mine, code = Claims(tmp_path / "runs.jsonl"), "import sys; from pathlib import Path; "
    code += "from seqmix.leaderboard.sweep.claims import Claims; "
    code += "print([Claims(Path(sys.argv[1])).take(run) for run in sys.argv[2:]])"
    runs = ["f" * 16, "0" * 16]
    command = [sys.executable, "-c", code, str(tmp_path / "runs.jsonl"), *runs]
    assert mine.take(runs[0])
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "[False, True]\n"
    mine.drop(runs[0])
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "[True, True]\n"
    mine.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("half", [b"\\ud800", b"\xed\xa0\x80"], ids=["escaped", "as it is"])
def test_half_of_a_character_in_a_file_is_told(half: bytes, tmp_path: Path) -> None:
    record = make_record()
    record["repro"]["command"] = "HERE"
    (tmp_path / "runs.jsonl").write_bytes(json.dumps(record).encode().replace(b"HERE", half) + b"\n")
    records, problems = scan_runs(tmp_path / "runs.jsonl")
    assert not records and "repro.command: expected text, got half of a character" in problems[0]
