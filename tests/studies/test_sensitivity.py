"""Loss against learning rate: the grid, the numbers by hand, the sweep that continues, the table and the figure."""

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from seqmix._checks import log_grid
from seqmix.commands import sensitivity as sensitivity_cli
from seqmix.leaderboard.records.store import RunStore, read_runs
from seqmix.studies.sensitivity import Contender, contenders, curve, draw, table
from tests.leaderboard.example_records import make_record

CHANCE = -math.log(1 / 60)
GRID = (1e-4, 1e-3, 1e-2, 1e-1)


def record(lr: float, loss: float | None, seed: int = 0, config: str = "a5", **kwargs: Any) -> dict[str, Any]:
    made = make_record(config, seed, lr=lr, **kwargs)
    if made["result"]["curve"]:
        made["result"]["validation"] = None
        made["result"]["curve"] = [
            {"step": 10, "accuracy": 0.5, "loss": 9.0},
            {"step": 20, "accuracy": 0.5, "loss": loss},
        ]
    return made


def curve_of(losses: dict[float, float], *more: dict[str, Any], ceiling: float | None = None):
    contender = Contender("a5", (), "adamw", "", tuple(losses))
    runs = {rate: [record(rate, loss)] for rate, loss in losses.items()}
    for each in more:
        runs[each["training"]["lr"]].append(each)
    return curve(contender, runs, [0], ceiling)


def test_numbers_by_hand() -> None:
    found = curve_of(dict(zip(GRID, (3.0, 0.5, 0.6, 8.0), strict=True)))
    assert (found.best_rate, found.best, found.at_edge) == (1e-3, 0.5, False)
    # The last loss counts no more than that of a guess.
    assert found.ceiling == pytest.approx(CHANCE)
    assert found.sensitivity == pytest.approx((3 + 0.5 + 0.6 + CHANCE) / 4 - 0.5)
    assert found.plateau == (1e-3, 1e-2)
    assert curve_of(dict(zip(GRID, (3.0, 0.5, 0.6, 8.0), strict=True)), ceiling=1.0).sensitivity == pytest.approx(
        (1 + 0.5 + 0.6 + 1) / 4 - 0.5
    )


def test_what_learned_nothing_has_no_best_rate_and_no_plateau() -> None:
    flat = curve_of(dict(zip(GRID, (4.0, 3.9, 4.0, 4.0), strict=True)))
    assert not flat.learned and curve_of(dict.fromkeys(GRID, 0.5)).learned
    row = next(line for line in table([flat]).splitlines() if "not learned" in line)
    cells = [cell.strip() for cell in row.split("|")]
    assert cells[3:4] == ["– not learned"] and cells[7:10] == ["–", "–", "–"]
    assert "Not learned: no rate gained 10% on that loss." in table([flat])


def test_runs_are_called_by_their_contender() -> None:
    optimizers = ["{name: lion, betas: [0.9, 0.98], label: slow}", "adamw"]
    changes = ["data.seed=1", "model.n_layers=2", "data.batch_size=3"]
    (first, second) = contenders(["a5"], optimizers, [], (1e-3, 1e-2), 2, changes)
    assert str(first.run(1e-3, 0)) == "a5 slow, learning rate 0.001, seed 0"
    assert str(second.run(1e-2, 4)) == "a5 adamw, learning rate 0.01, seed 4"


def test_the_plateau_has_no_holes() -> None:
    assert curve_of(dict(zip(GRID, (0.5, 3.0, 0.5, 0.5), strict=True))).plateau == (1e-4, 1e-4)
    assert curve_of(dict.fromkeys(GRID, 0.5)).plateau == (1e-4, 1e-1)
    assert curve_of(dict(zip(GRID, (1.0, 1.0, 1.0, 0.5), strict=True))).at_edge


def test_seeds_added_at_the_best_rate_do_not_move_the_grid() -> None:
    losses = dict(zip(GRID, (3.0, 0.5, 0.6, 4.0), strict=True))
    more = [record(1e-3, 2.5, seed=1), record(1e-3, 0.7, seed=2)]
    found = curve_of(losses, *more)
    assert (found.best, found.best_rate, found.sensitivity) == (0.5, 1e-3, curve_of(losses).sensitivity)
    assert found.at_best == (0.5, 2.5, 0.7)
    assert "| 0.7000 (0.5000 to 2.5000; 3) |" in table([found])


@pytest.mark.parametrize("broken", [{"diverged": True}, {"failed": True}])
def test_a_run_that_broke_counts_as_the_start(broken: dict[str, bool]) -> None:
    contender = Contender("a5", (), "adamw", "", (1e-3, 1e-1))
    runs = {1e-3: [record(1e-3, 0.5)], 1e-1: [record(1e-1, None, **broken)]}
    found = curve(contender, runs, [0], None)
    assert found.losses[1e-1] == pytest.approx(CHANCE)
    assert found.broken == {1e-1}
    assert "| 1 of 2 |" in table([found])


def test_grid() -> None:
    assert log_grid(1e-4, 1e-1, 7) == (1e-4, 3.16e-4, 1e-3, 3.16e-3, 1e-2, 3.16e-2, 1e-1)


def test_contenders_and_their_runs() -> None:
    optimizers = ["adamw", "{name: adamw, betas: [0.9, 0.9], label: tied}", "{name: lion, lr: [1e-5, 1e-3]}"]
    found = contenders(["a5"], optimizers, [], (1e-4, 1e-2), 3, ["trainer.max_steps=5"])
    assert [each.label for each in found] == ["adamw", "tied", "lion"]
    assert found[2].rates == (1e-5, 1e-4, 1e-3)
    run = found[1].run(1e-3, 4)
    # On top of the config's own entry, and another name starts afresh.
    assert run.settings["optimizer"] == {"name": "adamw", "lr": 1e-3, "betas": [0.9, 0.9], "weight_decay": 0}
    assert found[2].run(1e-4, 0).settings["optimizer"] == {"name": "lion", "lr": 1e-4}
    assert run.settings["trainer"]["max_steps"] == 5
    assert run.command.endswith("'--optimizer={name: adamw, betas: [0.9, 0.9]}' --optimizer.lr=0.001")
    both = contenders(["a5", "s3"], ["adamw", "lion"], ["lstm", "{name: gla, n_heads: 2}"], (1e-4, 1e-2), 2)
    assert len({(each.panel, each.label) for each in both}) == 8
    assert both[2].panel == "a5, gla" and both[2].run(1e-4, 0).settings["mixer"] == {"name": "gla", "n_heads": 2}
    mixers = contenders(["a5"], [], ["lstm", "gla"], (1e-4, 1e-2), 2)
    assert [(each.panel, each.label) for each in mixers] == [("", "lstm"), ("", "gla")]


def test_figure_is_the_same_for_the_same_records() -> None:
    curves = [curve_of(dict(zip(GRID, (3.0, 0.5, 0.6, 8.0), strict=True)))]
    svg = draw(curves, "svg")
    assert svg == draw(curves, "svg")
    assert b"learning rate" in svg and b"adamw" in svg
    assert draw(curves, "png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--optimizers", "adamw", "leon"], "unknown optimizer 'leon'; did you mean 'lion'"),
        (["--optimizers", "{name: adamw, beta: 1}"], "unknown argument of optimizer 'adamw': 'beta'"),
        (["--optimizers", "{lr: 1}"], "--optimizers: expected a name"),
        (["--optimizers", "{name: adamw, lr: 1}"], "lr of an entry must be [LOW, HIGH], got 1"),
        (["--optimizers", "adamw", "adamw"], "two contenders are called 'adamw'"),
        (["--mixers", "lstn"], "unknown mixer 'lstn'; did you mean 'lstm'"),
        (["--lr", "1e-1", "1e-3"], "two positive numbers LOW < HIGH"),
        (["--points", "1"], "--points: expected at least 2"),
        (["--figure", "x.pdf"], "--figure: expected a file that ends in .svg or .png"),
        (["--ceiling", "-1"], "--ceiling: expected a positive loss"),
        (["--section", "x"], "--write and --section"),
    ],
)
def test_mistakes(options: list[str], message: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store = tmp_path / "runs.jsonl"
    assert sensitivity_cli.main(["a5", "--store", str(store), *options]) == 2
    assert message in capsys.readouterr().err
    assert not store.exists()


def test_dry_run(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    options = ["a5", "--optimizers", "adamw", "lion", "--points", "3", "--seeds", "0", "1"]
    assert sensitivity_cli.main([*options, "--store", str(tmp_path / "x.jsonl"), "--dry-run"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 * 3 * 2
    assert lines[3] == "seqmix fit --config a5 --seed_everything 0 --optimizer=lion --optimizer.lr=0.0001"


def test_a_finished_sweep_is_reported_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    store, page = tmp_path / "runs.jsonl", tmp_path / "page.md"
    page.write_text("<!-- seqmix:rates -->\n<!-- /seqmix:rates -->\n")
    found = contenders(["a5"], ["adamw", "lion"], [], (1e-4, 1e-2), 3)
    for index, each in enumerate(found):
        for rate in each.rates:
            seeds = (0, 1) if rate == 1e-3 else (0,)
            for seed in seeds:
                run = each.run(rate, seed)
                loss = (0.5 if rate == 1e-3 else 1.0) + index + seed
                RunStore(store).append({**record(rate, loss, seed, overrides=list(run.overrides)), "id": run.id})
    options = ["a5", "--optimizers", "adamw", "lion", "--points", "3", "--lr", "1e-4", "1e-2", "--store", str(store)]
    options += ["--seeds-at-best", "0", "1", "--figure", str(tmp_path / "rates.svg")]
    assert sensitivity_cli.main([*options, "--write", str(page), "--section", "rates"]) == 0
    text = page.read_text()
    assert "| adamw | 3, 0.0001 to 0.01 | 0.001 | 0.5000 | 1.0000 (0.5000 to 1.5000; 2) | 1.0000 | 0.3333 |" in text
    assert text.index("| adamw |") < text.index("| lion |")
    assert "Written by `seqmix sensitivity a5" in text
    assert (tmp_path / "rates.svg").read_text().startswith("<?xml")
    assert len(read_runs(store)) == 8
    # With a seed that was never run the report has those that were, and runs none.
    capsys.readouterr()
    partial = [option for option in options if option != "1"]
    assert sensitivity_cli.main([*partial, "--seeds", "0", "--report-only", "--seeds-at-best", "0", "1", "2"]) == 0
    assert "(0.5000 to 1.5000; 2) |" in capsys.readouterr().out
    assert len(read_runs(store)) == 8


def test_no_chance_level() -> None:
    run = record(1e-3, 0.5)
    run["result"]["chance"] = None
    with pytest.raises(ValueError, match=r"--ceiling: expected the loss at the start"):
        curve(Contender("a5", (), "adamw", "", (1e-3,)), {1e-3: [run]}, [0], None)
    with pytest.raises(ValueError, match=r"no run at learning rate 0\.01"):
        curve(Contender("a5", (), "adamw", "", (1e-3, 1e-2)), {1e-3: [run]}, [0], 1.0)


@pytest.mark.slow
def test_runs_and_continues(tmp_path: Path) -> None:
    tiny = ["trainer.max_steps=3", "trainer.val_check_interval=3", "data.train_length=4", "data.eval_lengths=[4]"]
    tiny += ["data.eval_size=4", "data.batch_size=4"]
    command = [sys.executable, "-m", "seqmix", "sensitivity", "parity", "--optimizers", "adamw", "lion"]
    command += ["--points", "2", "--set", *tiny, "--store", "runs.jsonl", "--jobs", "2"]
    first = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert first.returncode == 0, first.stderr
    lines = (tmp_path / "runs.jsonl").read_text().splitlines()
    assert len(lines) == 4
    # One run is lost: it alone is made again.
    (tmp_path / "runs.jsonl").write_text("\n".join(lines[:3]) + "\n")
    again = subprocess.run([*command, "--seeds-at-best", "0", "1"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stderr
    records = read_runs(tmp_path / "runs.jsonl")
    assert len(records) == 6 and {json.loads(line)["id"] for line in lines} < {each["id"] for each in records}
    assert "| lion |" in again.stdout and "| adamw |" in again.stdout
