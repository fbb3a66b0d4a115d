"""Rows of studies from records of training runs, beside what boards say of the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from seqmix.__main__ import main
from seqmix.leaderboard.records.store import latest, scan_runs
from seqmix.leaderboard.summary.aggregate import aggregate
from seqmix.studies.runs import rows_of_runs
from seqmix.studies.statements import check_statements
from seqmix.studies.study import load_study

DOCS = Path(__file__).parents[2] / "docs"
STORE = DOCS / "results" / "board-cpu.jsonl"


@pytest.fixture(scope="module")
def records():
    return scan_runs(STORE)[0]


def study(**changes):
    return replace(load_study("blocks-on-parity"), **changes)


def test_chosen_runs_are_those_of_the_board(records):
    (board,) = aggregate(records)
    mine = study(only={"column": ["s4", "text", "mqar"]}, measures={"value": ["1x", "deciding"]})
    rows = rows_of_runs(mine, STORE)
    assert rows == [row for row in rows_of_runs(replace(mine, chosen=False), STORE) if row["chosen"]]
    cells = {(row["entry"], row["column"]) for row in rows}
    assert cells == {key for key in board.cells if key[1] in ("s4", "text", "mqar")}
    for entry, column in cells:
        found = [row for row in rows if (row["entry"], row["column"]) == (entry, column)]
        cell = board.cells[entry, column]
        assert {row["lr"] for row in found} == {cell.best} and len(found) == cell.n
        values = [np.inf if row["value"] is None else row["value"] for row in found]
        assert np.median(values) == cell.median


def test_what_broke_has_nothing_right_and_infinite_bits(records):
    mine = study(chosen=False, only={}, measures={"right": ["1x", "seq"], "bits": ["1x", "bpb"]})
    rows = rows_of_runs(mine, STORE)
    broke = [record for record in latest(records) if record["result"]["diverged"]]
    lost = [row for row in rows if row.get("bits", 0.0) is None]
    assert broke and len(lost) == len(broke) and all(row["right"] == 0.0 for row in lost)


def test_lengths_by_the_training_length():
    mine = study(chosen=False, measures={"home": ["1x", "last"], "same": ["40", "last"], "none": ["16x", "last"]})
    rows = rows_of_runs(mine, STORE)
    assert all(row["home"] == row["same"] and "none" not in row for row in rows)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("measures", "{short: [1x, lst]}", "did you mean 'last'"),
        ("measures", "{short: last}", "expected a test set and a key"),
        ("only", "{column: parity}", "only: column: expected a list"),
        ("page", "claim", "did you mean 'claims'"),
    ],
)
def test_mistakes_are_told(tmp_path, key, value, message):
    lines = study().path.read_text().splitlines()
    path = tmp_path / "mine.yaml"
    path.write_text("\n".join(f"{key}: {value}" if line.startswith(f"{key}:") else line for line in lines))
    with pytest.raises(ValueError, match=message):
        load_study(str(path))


def test_pages_say_what_records_say():
    """Every sentence of docs that names its condition, as `seqmix study check docs/*.md` does."""
    pages, records = sorted(DOCS.glob("*.md")), DOCS / "results"
    found = [(page.name, *each) for page in pages for each in check_statements(page, records)]
    assert len(found) >= 9 and [each for each in found if each[3]] == []


def test_a_statement_that_records_deny_is_found(tmp_path, capsys):
    page = tmp_path / "page.md"
    right = '<!-- holds: blocks-on-parity: share(short, 0.99, entry="bd-lru-2") == 1 -->'
    others = [right.replace("bd-lru-2", entry) for entry in ("bd-lru-1", "bd-lru-9")]
    page.write_text("\n".join(["Two.", right, *others]))
    assert main(["study", "check", str(page), "--records", str(DOCS / "results")]) == 1
    out = capsys.readouterr().out
    assert "page.md:3:" in out and "records of blocks-on-parity say otherwise" in out
    assert "page.md:4:" in out and "no rows with short" in out and "1 of 3 statements hold" in out
