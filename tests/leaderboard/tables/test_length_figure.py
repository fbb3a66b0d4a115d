"""Accuracy over length: the best rate of each config, every seed, a name at the end of each line."""

import itertools
from pathlib import Path

import pytest

from seqmix._figures import adapted, label_ends
from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records.store import RunStore
from seqmix.leaderboard.tables.length_figure import draw, length_curves
from tests.leaderboard.example_records import make_record


def runs():
    return [
        make_record(config, seed, lr=lr, accuracies={16: 1.0, 64: right + seed / 10}, validation=1.0 - lr)
        for config, right in (("a", 0.8), ("b", 0.1))
        for seed in (0, 1)
        for lr in (1e-3, 1e-2)
    ]


def test_curves() -> None:
    first, second = length_curves(runs())
    assert (first.label, second.label) == ("a", "b"), "one mixer in both"
    assert first.points == [(16, [1.0, 1.0]), (64, [0.8, 0.9])] and first.trained == 16
    assert length_curves(runs()[:4], "last")[0].measure == "last-position accuracy"
    with pytest.raises(ValueError, match="expected runs that were tested at some length"):
        length_curves([make_record("a", 0, failed=True)])


def test_the_command_draws_the_same_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = RunStore(tmp_path / "runs.jsonl")
    for record in runs():
        store.append(record)
    figure = tmp_path / "length.svg"
    assert main(["report", str(store.path), "--figure", str(figure), "--over", "length"]) == 0
    draw(tmp_path / "again.svg", length_curves(runs()))
    assert figure.read_bytes() == (tmp_path / "again.svg").read_bytes()
    text = figure.read_text()
    assert "length of the test words" in text and "trained up to here" in text and ">b</text>" in text
    assert main(["report", str(store.path), "--figure", str(figure), "--measure", "tok"]) == 2
    assert "--measure: it is that of a figure over length" in capsys.readouterr().err


def test_figures_have_no_ground_and_no_black(tmp_path: Path) -> None:
    draw(tmp_path / "a.svg", length_curves(runs()))
    svg = (tmp_path / "a.svg").read_bytes()
    assert b"#ffffff" not in svg and b"#000000" not in svg and b'fill="#767b84">' in svg
    assert adapted(svg) == svg, "what was adapted stays as it is"


def test_names_at_the_ends_do_not_lie_on_one_another() -> None:
    class Axes:
        places: list[float] = []

        def annotate(self, name, place, **more) -> None:
            self.places.append(place[1])

    label_ends(Axes(), [(1, 0.0, "a", "k"), (1, 0.01, "b", "k"), (1, 1.0, "c", "k"), (1, 0.99, "d", "k")], room=0.1)
    gaps = [above - below for below, above in itertools.pairwise(Axes.places)]
    assert min(gaps) > 0.0999 and 0 <= Axes.places[0] < Axes.places[-1] <= 1
