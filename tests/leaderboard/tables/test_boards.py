"""Boards as Markdown, where some runs diverged."""

from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.tables.boards import board_table
from tests.leaderboard.summary.test_aggregate import run
from tests.leaderboard.tables.test_report import text_record


def text_run(entry: str, bits: float, **kwargs: bool) -> Record:
    record = text_record(entry, bits, **kwargs)
    record["identity"] |= {"board": "small", "entry": entry, "column": "text"}
    return record


def test_diverged_runs_are_named_by_what_they_count_as() -> None:
    records = [text_run("lru", 2.5), text_run("gla", 9.0, diverged=True), run("lru"), run("gla")]
    table = board_table(records)
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines() if line.startswith("| ")]
    assert [row[1] for row in rows] == ["entry", "lru", "gla"]
    text = rows[0].index("text")
    assert rows[1][text] == "2.497 (2.497)" and rows[2][text] == "∞ (∞)"
    assert "Diverged and failed runs count, with accuracy 0 or infinite bits." in table
    assert "count, with infinite bits." in board_table(records[:2])
    failed = text_run("gla", 9.0, failed=True)
    assert "count, with infinite bits." in board_table([*records[:2], failed])
    assert "count, with accuracy 0 or infinite bits." in board_table([*records, failed])
    assert "Diverged and failed" not in board_table([records[0], records[2]])
