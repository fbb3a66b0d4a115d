"""Studies as files: those that are shipped, a new one, records that go on, the command."""

import ast
import json
import random
from pathlib import Path

import pytest

from seqmix.__main__ import main
from seqmix._posix import fcntl
from seqmix.leaderboard.boards.board import find_board, load_board
from seqmix.leaderboard.boards.grid import find_grid, grid_runs
from seqmix.studies.fits import FIELDS, compute, rows_of
from seqmix.studies.lines import read_lines
from seqmix.studies.report import render, table, verdicts
from seqmix.studies.rules import VERDICTS, verdict
from seqmix.studies.runs import factors_of
from seqmix.studies.study import list_studies, load_study

RESULTS = Path(__file__).parents[2] / "docs" / "results"
MINE = """# Do ten eigenvalues keep ten tokens?
paper: "2307.11888"
about: Mine
authors: Somebody, Other
year: 2024
compute: reconstruction
grid: {spectrum: [real, ring], length: [4, 10]}
seeds: [0, 1]
table: {measure: error, rows: spectrum, columns: length}
figure: {measure: error, x: length, lines: spectrum}
claims:
  - {claim: A ring keeps more, threshold: 'error(spectrum="ring", length=10) < error(spectrum="real", length=10)'}
"""


@pytest.fixture
def mine(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(MINE)
    return path


def planned(study):
    """The rows of a study but for what is measured: cells, or the runs of its grid."""
    if study.compute:
        return study.cells()
    name = study.runs.split()[-1]
    if find_grid(name) is None:
        board = load_board(find_board(name))
        cells = [(entry, column) for column in board.tasks for entry in board.rows(column)]
        rows = [{"entry": e, "column": c, "lr": 1e-3, "seed": seed} for seed in board.best_seeds for e, c in cells]
        return [row for row in rows if all(row[name] in values for name, values in study.only.items())]
    runs = grid_runs(find_grid(name))
    rate = lambda run: float(run.settings["optimizer"]["lr"])  # noqa: E731
    rows = [{"seed": run.seed, "lr": rate(run), **factors_of(study, run.settings)} for run in runs]
    rows = [row for row in rows if all(row[name] in values for name, values in study.only.items())]
    rows = [row | {"lr": 1e-3 if study.chosen else row["lr"]} for row in rows]
    factors = lambda row: [row[name] for name in study.factors]  # noqa: E731
    rows = [row | {"chosen": row["lr"] == min(r["lr"] for r in rows if factors(r) == factors(row))} for row in rows]
    return list({(*row.items(),): row for row in rows}.values())


IN_GRIDS = [name for name in list_studies() if load_study(name).runs.startswith("leaderboard run")]


@pytest.mark.parametrize("name", [name for name in list_studies() if load_study(name).compute] + IN_GRIDS)
def test_conditions_are_about_what_is_computed(name):
    """Of rows with any numbers each claim has a verdict: no factor or level is misspelt."""
    study, draw = load_study(name), random.Random(0)
    texts = [text for claim in study.claims for text in claim.conditions.values()]
    names = {node.id for text in texts for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
    rows = [{**cell, **{measure: draw.uniform(0.5, 2) for measure in names}} for cell in planned(study)]
    assert set(study.seeds) <= {row["seed"] for row in rows}, "fewer seeds are run than a verdict asks for"
    for claim in study.claims:
        assert verdict(claim.conditions, rows, len(study.seeds)) in set(VERDICTS) - {"not tried", "incomplete"}, (
            claim.text
        )


@pytest.mark.parametrize("name", list_studies())
def test_shipped_records_have_verdicts(name):
    """Whatever of its runs has been made: none of its conditions asks for what no run has."""
    study = load_study(name)
    rows = rows_of(study, RESULTS / study.records)
    assert set(verdicts(study, rows)) <= set(VERDICTS)
    assert not rows or table(study, rows).count("\n") > 1, "its table is empty"
    assert rows or study.runs, "a study that is computed ships with its records"


def test_a_new_study_is_a_file(mine, tmp_path, capsys):
    store = tmp_path / "mine.jsonl"
    assert main(["study", "run", str(mine), "--store", str(store)]) == 0
    assert "8 computed, 0 were there" in capsys.readouterr().out
    assert main(["study", "run", str(mine), "--store", str(store)]) == 0
    assert "0 computed, 8 were there" in capsys.readouterr().out
    figure = tmp_path / "mine.svg"
    assert main(["study", "report", str(mine), "--store", str(store), "--figure", str(figure)]) == 0
    text = capsys.readouterr().out
    assert "**reproduced**: A ring keeps more" in text and "| ring |" in text and "8 runs," in text
    assert figure.read_bytes().startswith(b"<?xml")


def test_records_go_on_and_halves_are_left_out(mine, tmp_path):
    study, store = load_study(str(mine)), tmp_path / "mine.jsonl"
    assert compute(study, store) == 8
    whole = store.read_text()
    store.write_text("".join(whole.splitlines(keepends=True)[:3]) + '{"study": "mi')
    assert len(rows_of(study, store)) == 3
    assert compute(study, store, jobs=2) == 5
    key = lambda line: json.dumps(line["asked"], sort_keys=True)  # noqa: E731
    again = {key(line): line["measured"] for line in read_lines(store, FIELDS)}
    assert again == {key(json.loads(line)): json.loads(line)["measured"] for line in whole.splitlines()}


def test_two_runs_do_not_write_into_one_file(mine, tmp_path):
    store = tmp_path / "mine.jsonl"
    with store.open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(ValueError, match="another run of a study writes into"):
            compute(load_study(str(mine)), store)
    assert compute(load_study(str(mine)), store) == 8


def test_a_table_has_medians_with_intervals(mine):
    study = load_study(str(mine))
    rows = [
        {"spectrum": "ring", "length": 4, "seed": seed, "error": error, "seconds": 0.0}
        for seed, error in enumerate([0.1, 0.2, None])
    ]
    assert "diverged 1 of 3" in table(study, rows)
    assert r"0.15 \[0.1, 0.2]" in table(study, rows[:2])
    assert "**not tried**" in render(study, [])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("compute: reconstruction", "compute: reconstructions", "did you mean 'reconstruction'"),
        ("seeds:", "seed:", "did you mean 'seeds'"),
        ("paper:", "papers:", "unknown key 'papers'"),
        ("threshold:", "threshhold:", "did you mean 'threshold'"),
        ("{spectrum: [real, ring]", "{spectrum: real", "expected arguments with lists of values"),
        ('error(spectrum="ring", length=10) <', "error[0] <", "expected measures"),
        ("x: length", "x: [length]", "figure: x: expected one factor"),
    ],
)
def test_mistakes_are_told(mine, old, new, message):
    mine.write_text(MINE.replace(old, new))
    with pytest.raises(ValueError, match=message):
        load_study(str(mine))


def test_the_index_of_papers(tmp_path, capsys):
    (tmp_path / "studies").mkdir()
    study = load_study("logistic-cycles")
    compute(study.small(), tmp_path / study.records)
    page = tmp_path / "papers.md"
    page.write_text("# Papers\n<!-- seqmix:papers -->\n<!-- /seqmix:papers -->\n")
    words = ["study", "papers", "--records", str(tmp_path), "--write", str(page), "--section", "papers"]
    assert main([*words, "--figures", str(tmp_path / "figures")]) == 0
    text = page.read_text()
    claims = sum(len(load_study(name).claims) for name in list_studies())
    assert text.count("\n| [") == claims and "**not tried**" in text
    mine = [name for name in list_studies() if load_study(name).page == "papers"]
    assert text.count("\n### ") == len(mine) and "(claims.md#blocks-on-parity)" in text
    assert "![" not in text.partition("### logistic-cycles")[0]


def test_an_unknown_study_is_told(capsys):
    assert main(["study", "run", "rank-collaps"]) == 2
    assert "did you mean 'rank-collapse'" in capsys.readouterr().err
    assert main(["study", "list"]) == 0
    assert "reconstruction" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in list_studies() if load_study(name).compute])
def test_every_study_runs_small(name, capsys):
    assert main(["study", "run", name, "--smoke"]) == 0
    assert "**" in capsys.readouterr().out
