"""Grids: every combination of settings, with seeds, in the order of the file."""

import itertools
import json
import re
from pathlib import Path

import pytest

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.boards.board import list_boards
from seqmix.leaderboard.boards.grid import find_grid, grid_runs, list_grids
from seqmix.leaderboard.sweep.plan import plan_run
from seqmix.mixers import create_mixer
from seqmix.training.config.files import list_configs

GRID = """
- config: parity
  set: {trainer.max_steps: 5, mixer: {name: fp-rnn, d_state: 8}}
  grid: {mixer.rank: [0, 1], mixer.hidden_dependence: [[], [b]], mixer.write: ["b*v"]}
  seeds: [0, 3]
- config: parity
  set: {trainer.max_steps: 5}
  grid: {mixer.block_size: [1, 2]}
"""


def write(tmp_path: Path, text: str = GRID) -> Path:
    path = tmp_path / "some.yaml"
    path.write_text(text)
    return path


def test_every_combination_in_order(tmp_path: Path) -> None:
    runs = grid_runs(write(tmp_path))
    mixers = [run.settings["mixer"] for run in runs]
    kinds = [(0, []), (0, ["b"]), (1, []), (1, ["b"])]
    said = [(m["rank"], m["hidden_dependence"], run.seed) for m, run in zip(mixers[:8], runs, strict=False)]
    assert said == [(*kind, seed) for seed in (0, 3) for kind in kinds]
    assert all(m["write"] == "b*v" and m["name"] == "fp-rnn" for m in mixers[:8])
    assert [m["block_size"] for m in mixers[8:]] == [1, 2]
    assert all(run.settings["trainer"]["max_steps"] == 5 for run in runs)
    same = plan_run("parity", ("trainer.max_steps=5", "mixer.block_size=2"), 0)
    assert runs[-1].id == same.id, "a run of a grid is the run that --set would make"


def test_configs_beside_a_grid_come_first(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("base: parity\nmixer: {name: lstm}\n")
    (run,) = grid_runs(write(tmp_path, "config: mine\ngrid: {optimizer.lr: [0.1]}\n"))
    assert run.settings["mixer"]["name"] == "lstm" and run.settings["optimizer"]["lr"] == 0.1


@pytest.mark.parametrize(
    "text, words",
    [
        ("config: parity\n", "expected parts with config, grid"),
        ("config: parity\ngrid: {a: [1]}\nseed: [1]\n", "expected parts with config, grid"),
        ("config: parity\ngrid: {mixer.rank: 1}\n", "mixer.rank: expected a list of values, got 1"),
        ("config: parity\ngrid: [1, 2]\n", "grid: expected settings with lists of values"),
        ("config: parity\ngrid: {mixer.rank: [1]}\nseeds: 3\n", "seeds: expected a list of values, got 3"),
        ("config: parityy\ngrid: {mixer.rank: [1]}\n", "did you mean 'parity'"),
    ],
)
def test_what_does_not_fit_is_said(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ValueError, match=rf"grid .*some.yaml: .*{words}"):
        grid_runs(write(tmp_path, text))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, store = write(tmp_path), ["--store", str(tmp_path / "runs.jsonl")]
    assert find_grid(str(path)) == path and find_grid("parity") is None
    assert main(["run", str(path), *store, "--dry-run"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 10
    assert main(["run", str(path), "--lr", "1", *store]) == 2
    assert "--lr: a board has its own, and so has a grid" in capsys.readouterr().err


def head_of(path: Path) -> str:
    """The comment on top of a file, in one line."""
    lines = itertools.takewhile(lambda line: line.startswith("#"), path.read_text().splitlines())
    return " ".join(line.lstrip("# ") for line in lines)


def test_names_of_grids_are_their_own() -> None:
    assert list_grids() and not list_grids().keys() & {*list_configs(), *list_boards()}


@pytest.mark.parametrize("name", list_grids())
def test_shipped_grids_can_be_planned_and_built(name: str) -> None:
    """As many runs as their files say, of layers that exist."""
    path = find_grid(name)
    assert path is not None
    runs, said = grid_runs(path), re.search(r"([\d,]+) runs, (about )?(\d+)[ .]*minutes", head_of(path))
    assert said and int(said[1].replace(",", "")) == len(runs), len(runs)
    for width, mixer in {(run.settings["model"]["d_model"], json.dumps(run.settings["mixer"])) for run in runs}:
        options = json.loads(mixer)
        create_mixer(options.pop("name"), width, **options)
