"""The block-size law: its plan, cells from records, table and figure."""

import json
from pathlib import Path
from typing import Any

import pytest

from seqmix.commands.block_law import main
from seqmix.leaderboard.records.schema import Record
from seqmix.studies.block_law import BLOCK_SIZES, GROUPS, cells_of, plan, table
from seqmix.studies.block_law_figure import draw, staircase
from seqmix.tasks.block_sizes import smallest_block
from tests.leaderboard.example_records import make_record


def record(
    group: str, m: int, gates: str = "softmax", seed: int = 0, *, solved: bool = True, certified: bool | None = None,
    mlp: float = 0, kernels: tuple[int, ...] = (), **more: Any,
) -> Record:  # fmt: skip
    mixer = {"name": "bd-lru", "block_size": m, "d_state": 8 * m, "normalization": gates}
    settings = {"data": {"name": "word-problem", "group": group}, "mixer": mixer, "model": {"mlp_ratio": mlp}}
    made = make_record("block-law", seed, accuracies={16: 1.0, 256: 1.0 if solved else 0.98}, **settings, **more)
    if certified is not None:
        blocks = [{"kind": "anti-homomorphism", "kernel": kernel} for kernel in kernels]
        made["result"]["certificate"] = {"certified": certified, "blocks": blocks}
    return made


def test_plan_has_every_cell_with_one_seed_before_the_next() -> None:
    runs = plan(GROUPS, BLOCK_SIZES, ["softmax", "signed"], [0], "linear")
    assert len(runs) == len({run.id for run in runs}) == 11 * 7 * 2
    runs += plan(GROUPS[:2], BLOCK_SIZES[:2], ["softmax"], [1, 2], "linear")
    assert [run.seed for run in runs] == sorted(run.seed for run in runs)
    run = next(run for run in runs if "data.group=S4" in run.overrides and run.settings["mixer"]["block_size"] == 3)
    assert run.settings["mixer"] == {"name": "bd-lru", "block_size": 3, "d_state": 24, "normalization": "softmax"}
    assert run.settings["model"]["mlp_ratio"] == 0 and run.settings["data"]["group"] == "S4"
    assert run.settings["volume_restart"] is None and run.settings["trainer"]["max_steps"] == 1500
    signed, softmax = plan(["A5"], [5], ["signed", "softmax"], [0], "linear")
    assert [option for option in signed.overrides if "max_steps" in option] == ["trainer.max_steps=2000"]
    assert signed.settings["volume_restart"] is None and signed.settings["schedule"]["name"] == "wsd"
    assert softmax.settings["volume_restart"]["dimensions"] == 5 and softmax.settings["schedule"]["name"] == "constant"
    signed, softmax = plan(["S5"], [5], ["signed", "softmax"], [0], "linear")
    assert softmax.settings["volume_restart"] == {"length": 6, "min_volume": 0.7, "max_steps": 1500, "dimensions": 5}
    assert signed.settings["volume_restart"] is None and signed.settings["curriculum"]["start"] == 4
    with_mlp = plan(["Q8"], [4], ["signed"], [0], "any", ["trainer.max_steps=7"])[0].settings
    assert with_mlp["model"]["mlp_ratio"] == 1 and with_mlp["trainer"]["max_steps"] == 7
    assert with_mlp["mixer"]["normalization"] == "l1"
    # What is planned is what the records are taken for.
    for run in runs[:154]:
        made = record(run.settings["data"]["group"], 1) | {"id": run.id}
        made["identity"]["settings"] = run.settings
        (key,) = cells_of([made])
        name, _, gates, m = key
        assert f"data.group={name}" in run.overrides and f"mixer.block_size={m}" in run.overrides
        assert ("mixer.normalization=l1" in run.overrides) == (gates == "signed")


def test_cells_count_solved_and_certified_runs() -> None:
    runs = [record("S3", 3, seed=n, solved=n < 3, certified=n < 2) for n in range(4)]
    runs += [record("S3", 3, seed=4, failed=True), record("S3", 3, seed=5, diverged=True), record("S3", 2)]
    cells = cells_of(runs)
    cell = cells["S3", "linear", "softmax", 3]
    assert (len(cell.runs), cell.solved, cell.certified, cell.predicted) == (6, 3, 2, True)
    assert cells["S3", "linear", "softmax", 2].certified is None and not cells["S3", "linear", "softmax", 2].predicted


def test_what_was_learned_instead_is_the_largest_quotient() -> None:
    # Of an even number of runs the lower one of the middle two: no block carries what is between.
    runs = [record("S4", 3, seed=n, solved=False, certified=False, kernels=(12, 4)) for n in range(2)]
    runs += [record("S4", 3, seed=2, solved=False, certified=False, kernels=(12,))]
    runs += [record("S4", 3, seed=3, solved=False, certified=False)]
    runs += [record("S4", 2, solved=False, certified=False), record("S4", 1, solved=False)]
    cells = cells_of(runs)
    assert [cells["S4", "linear", "softmax", m].image for m in (1, 2, 3)] == [None, 1, 2]
    assert "| S4 | 4 | 0, - of 1 | 0, 0 of 1; 1 | 0, 0 of 4; 2 |" in table(cells)


def test_what_disagrees_is_marked() -> None:
    runs = [record("Z2", 2), record("Z2", 1, solved=False), record("Q8", 4), record("S4", 3, "l1", solved=False)]
    text = table(cells_of(runs))
    assert "| Z2 | 2 | 0, - of 1 | **1, - of 1** |" in text
    assert "| Q8 | 8 |  |  |  | 1, - of 1 ! |" in text and "| S4 | 3 |  |  | **0, - of 1 !** |  |" in text
    assert "2 of 4 cells agree; not Q8 softmax m = 4; S4 signed m = 3." in text
    assert (
        "Solved with softmax gates: 1 of 1 runs where blocks are large enough, 1 of 2 runs where they are not." in text
    )
    assert "Solved with signed gates: 0 of 1 runs where blocks are large enough." in text
    assert "1 of 1 cells agree." in table(cells_of([record("Q8", 4, mlp=1)]))


def test_staircase_is_that_of_the_groups() -> None:
    rows = [("Z2", "linear"), ("S4", "linear"), ("Q8", "linear"), ("Q8", "any"), ("A5", "linear")]
    assert staircase(rows, BLOCK_SIZES, "softmax") == [1, 3, 6, 3, 4]
    assert staircase(rows, BLOCK_SIZES, "signed") == [0, 2, 3, 1, 4]
    assert all(
        smallest_block(name, signed=signed, read_out="any") <= smallest_block(name, signed=signed)
        for name in GROUPS
        for signed in (False, True)
    )


def test_other_records_are_no_cells() -> None:
    with pytest.raises(ValueError, match="expected a word problem with bd-lru, got word-problem with bd-lru"):
        cells_of([make_record()])
    with pytest.raises(ValueError, match="expected one run of a seed in each cell, got run"):
        cells_of([record("S3", 3), record("S3", 3) | {"id": "0" * 16}])
    with pytest.raises(ValueError, match="most cells have no volume_restart; expected null or all of it, got 'volume_"):
        plan(["S3"], [3], ["softmax"], [0], "linear", ["volume_restart.min_volume=0.5"])


def test_figure_says_counts_and_law_and_is_the_same_every_time() -> None:
    runs = [record("S3", 3, seed=n, certified=n > 0) for n in range(4)]
    runs += [record("S3", 2, "l1", solved=False), record("Q8", 4, mlp=1)]
    cells = cells_of(runs)
    svg = draw(cells, "svg")
    assert svg == draw(cells, "svg") and draw(cells, "png").startswith(b"\x89PNG")
    text = svg.decode()
    assert "4/3" in text and "softmax gates" in text and "signed gates" in text and "Q8, MLP" in text


def write(path: Path, runs: list[Record]) -> Path:
    path.write_text("".join(json.dumps(run) + "\n" for run in runs))
    return path


def test_figure_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = write(tmp_path / "law.jsonl", [record("Z2", m, certified=m > 1, solved=m > 1) for m in (1, 2)])
    page = tmp_path / "page.md"
    page.write_text("# Law\n<!-- seqmix:law -->\n<!-- /seqmix:law -->\n")
    figure = tmp_path / "law.svg"
    options = ["--figure", str(figure), "--write", str(page), "--section", "law"]
    assert main(["figure", str(store), *options]) == 0
    assert "2 of 2 cells agree" in page.read_text() and "Written by `seqmix block-law figure" in page.read_text()
    assert b"<svg" in figure.read_bytes()
    assert main(["figure", str(store), "--figure", str(tmp_path / "law.pdf")]) == 2
    assert "--figure: expected a file that ends in .svg or .png" in capsys.readouterr().err


def test_run_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = ["--store", str(tmp_path / "law.jsonl")]
    assert main(["run", *store, "--groups", "Z2", "Q8", "--m", "2", "--seeds", "0", "1", "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8 and all(line.startswith("seqmix fit --config block-law") for line in lines)
    for options, message in (
        (["--groups", "Z0"], "unknown group 'Z0'"),
        (["--gates", "sign"], "unknown kind of gates 'sign'; did you mean 'signed'"),
        (["--m", "0"], "--m: expected block sizes of at least 1, got 0"),
    ):
        assert main(["run", *store, "--dry-run", *options]) == 2
        assert message in capsys.readouterr().err
