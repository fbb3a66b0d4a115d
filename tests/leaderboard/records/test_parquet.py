"""Records as Parquet files, and back."""

import copy
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records.parquet import read_parquet, write_parquet
from seqmix.leaderboard.records.store import RunStore, read_runs
from tests.leaderboard.example_records import make_record

RESULTS = Path(__file__).parents[3] / "docs/results"


def test_records_come_back_as_they_were(tmp_path: Path) -> None:
    shipped = [record for path in sorted(RESULTS.glob("[a-r]*.jsonl")) for record in read_runs(path)]
    records = [make_record(seed=0), make_record(seed=1, failed=True), make_record(seed=2, diverged=True), *shipped]
    records[0]["result"]["iterations"] = {"train": 2.5}
    before = copy.deepcopy(records)
    write_parquet(records, tmp_path / "runs.parquet")
    assert read_parquet(tmp_path / "runs.parquet") == before == records


def test_columns_are_flat_and_typed(tmp_path: Path) -> None:
    write_parquet([make_record(), make_record(seed=1, failed=True)], tmp_path / "runs.parquet")
    table = pq.read_table(tmp_path / "runs.parquet")
    assert table["training.lr"].to_pylist() == [0.002, None]
    assert table["test.64.seq"].to_pylist() == [0.75, None] and table["test.16.n"].to_pylist() == [512, None]
    assert table["identity.seed"].to_pylist() == [0, 1] and table["result.diverged"].to_pylist() == [False, None]
    assert {str(kind) for kind in table.schema.types} <= {"string", "int64", "double", "bool"}


def test_convert_there_and_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunStore(tmp_path / "runs.jsonl")
    store.append(make_record())
    files = [str(tmp_path / name) for name in ("runs.jsonl", "runs.parquet", "again.jsonl")]
    assert main(["convert", *files[:2]]) == 0
    assert main(["convert", *files[1:]]) == 0
    assert capsys.readouterr().out.count(": 1 records") == 2
    assert (tmp_path / "again.jsonl").read_bytes() == store.path.read_bytes()
    for wrong, message in (
        (files[:2], "expected a new file"),
        ([files[0], files[2]], "expected FILE.jsonl OUT.parquet or FILE.parquet OUT.jsonl, got .jsonl .jsonl"),
        ([files[0], "/nowhere/x.parquet"], "expected a file in a folder that exists"),
    ):
        assert main(["convert", *wrong]) == 2
        assert message in capsys.readouterr().err


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "runs.parquet"
    path.write_text("no")
    with pytest.raises(ValueError, match="expected a Parquet file, cannot read it"):
        read_parquet(path)
    write_parquet([make_record()], path)
    table = pq.read_table(path)
    pq.write_table(table.drop_columns(["training.lr"]), path)
    with pytest.raises(ValueError, match=r"expected the columns of a record, training\.lr missing"):
        read_parquet(path)
    at = table.column_names.index("attempt")
    pq.write_table(table.set_column(at, "attempt", [[0]]), path)
    with pytest.raises(ValueError, match=r"runs\.parquet: row 0: attempt: expected at least 1, got 0"):
        read_parquet(path)
