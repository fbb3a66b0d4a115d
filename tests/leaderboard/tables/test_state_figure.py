"""Accuracy over the size of the state: the best rate of each config, every seed, one line for each task."""

from pathlib import Path

import pytest

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records.store import RunStore
from seqmix.leaderboard.tables.state_figure import draw, state_curves
from tests.leaderboard.example_records import make_record


def runs():
    records = []
    for pairs in (8, 16):
        for size in (512, 128):
            for seed in (0, 1):
                right = min(1.0, size / 64 / pairs + seed / 100)
                for lr, validation in ((1e-3, 0.9), (1e-2, 0.5)):
                    found = {16: right if lr == 1e-3 else 0.1}
                    record = make_record(
                        f"m{pairs}-{size}", seed, lr=lr, accuracies=found, validation=validation, size=size
                    )
                    record["identity"]["task_kwargs"] = {"n_pairs": pairs}
                    record["size"]["state_size"] = {"16": size}
                    records.append(record)
    return records


def test_curves() -> None:
    curves = state_curves(runs())
    assert [curve.label for curve in curves] == ["bd-lru, n_pairs 8", "bd-lru, n_pairs 16"]
    assert curves[0].points == [(128, [0.25, 0.26]), (512, [1.0, 1.0])]
    assert curves[1].points == [(128, [0.125, 0.135]), (512, [0.5, 0.51])]


def test_the_same_records_draw_the_same_file(tmp_path: Path) -> None:
    for name in ("a.svg", "b.svg"):
        draw(tmp_path / name, state_curves(runs()))
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    text = (tmp_path / "a.svg").read_text()
    assert "numbers in the state" in text and "bd-lru, n_pairs 16" in text and ">512<" in text


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunStore(tmp_path / "runs.jsonl")
    for record in runs():
        store.append(record)
    figure = tmp_path / "states.svg"
    assert main(["report", str(store.path), "--figure", str(figure)]) == 0 and figure.stat().st_size > 1000
    assert main(["report", str(store.path), "--figure", "states.png"]) == 2
    assert (
        "--figure: expected a file that ends in .svg, in a folder that exists, got 'states.png'"
        in capsys.readouterr().err
    )
