"""Runs of records stand in the cells of the atlas that are their own, and in no other."""

from pathlib import Path
from typing import Any

import pytest

from seqmix.atlas import AUTOMATA, MIXERS, predict
from seqmix.atlas.page import cells_of
from seqmix.leaderboard.records.store import read_runs
from seqmix.leaderboard.summary.atlas_marks import atlas_marks, column_of, marks_of
from seqmix.leaderboard.summary.atlas_records import Learned, learned
from seqmix.tasks import create_task
from seqmix.tasks.automata import from_table, named_automaton

RESULTS = Path(__file__).parents[3] / "docs" / "results"
Z2 = named_automaton("Z2")

ROWS: list[tuple[dict[str, Any], str, str | None]] = [
    ({"name": "mamba"}, "Z2", "mamba, conv"),
    ({"name": "mamba", "d_conv": 1}, "Z2", "mamba"),
    ({"name": "mamba", "d_conv": 2}, "Z2", "mamba"),
    ({"name": "mamba", "eigenvalues": "signed"}, "Z2", "mamba, signed"),
    ({"name": "deltanet", "eigenvalues": "signed", "n_householder": 2}, "S3", "deltanet, signed, 2 steps"),
    ({"name": "deltanet", "eigenvalues": "signed", "n_householder": 3}, "S3", None),
    ({"name": "bd-lru", "block_size": 4}, "S3", "bd-lru, m = 4"),
    ({"name": "bd-lru", "block_size": 5}, "S3", "bd-lru, any m"),
    ({"name": "bd-lru", "block_size": 3, "normalization": "l1"}, "S3", "bd-lru, l1, any m"),
    ({"name": "bd-lru", "block_size": 3}, "D4", None),  # no blocks of three do it, some blocks do
    ({"name": "fp-rnn", "hidden_dependence": ["mixing"]}, "S3", None),
    ({"name": "gla", "position": "rope"}, "Z2", "gla"),
    ({"name": "mesa"}, "Z2", None),
]


@pytest.mark.parametrize(("entry", "automaton", "row"), ROWS)
def test_rows(entry: dict[str, Any], automaton: str, row: str | None) -> None:
    record: Any = {"status": "failed", "result": {"certificate": None}}
    found = Learned(predict(entry, automaton), [record], entry, named_automaton(automaton), 1)
    marks = marks_of(cells_of(list(MIXERS), [automaton]), [found])
    assert [key for key, cell in marks.items() if cell.records] == ([] if row is None else [(row, automaton)])
    marks = marks_of(cells_of(list(MIXERS), [automaton], 2), [found], 2)
    assert not any(cell.records for cell in marks.values())


def test_columns() -> None:
    names = list(AUTOMATA)
    assert [column_of(named_automaton(task), names) for task in AUTOMATA.values()] == names
    assert column_of(create_task("parity").automaton(), names) == "Z2"
    assert column_of(create_task("word-problem", group="S5", bos=False).automaton(), names) == "S5"
    assert column_of(named_automaton("Z5"), names) is None and column_of(Z2, ["S3"]) is None
    # The other answers, and the same ones under other names.
    steps = [[0, 1], [1, 0]]
    assert column_of(from_table({"step": steps, "output": [1, 0]}), names) == "Z2"
    assert column_of(from_table({"step": [[1, 0], [0, 1]], "output": [0, 1]}), names) is None


def test_runs_are_counted() -> None:
    found = learned(read_runs(RESULTS / "parity.jsonl"))
    marks = marks_of(cells_of(list(MIXERS), ["Z2"]), found)
    told = {key[0]: (cell.solved, cell.runs, cell.certified) for key, cell in marks.items() if cell.records}
    assert told["mamba, conv"] == told["h-lru"] == (0, 3, 0)
    assert told["bd-lru, m = 2"][1] == 3 and sum(runs for _, runs, _ in told.values()) <= len(found) * 3
    for row in ("bd-lru, m = 2", "h-lru", "pd-ssm"):
        alone = atlas_marks(row, "Z2", read_runs(RESULTS / "parity.jsonl"))
        assert (alone.solved, alone.runs, alone.certified) == told.get(row, (0, 0, 0))
        assert alone.prediction == marks[row, "Z2"].prediction
    with pytest.raises(ValueError, match="unknown mixer of the atlas: 'h-lru, m = 2'"):
        atlas_marks("h-lru, m = 2", "Z2", [])
    with pytest.raises(ValueError, match="unknown automaton of the atlas: 'Z99'"):
        atlas_marks("h-lru", "Z99", [])
