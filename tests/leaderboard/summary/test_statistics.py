"""Statistics against cases worked out by hand."""

import re

import numpy as np
import pytest

from seqmix.leaderboard.summary.statistics import (
    Criterion,
    accuracy,
    best_learning_rate,
    bootstrap_interval,
    comparable,
    solved,
    spread,
    unvalidated,
    wilson_interval,
)
from tests.leaderboard.example_records import make_record


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        (8, 10, 0.4902, 0.9433),
        (5, 5, 0.5655, 1),
        (3, 3, 0.4385, 1),
        (0, 5, 0, 0.4345),
        (1, 2, 0.0945, 0.9055),
        (0, 0, 0, 1),
    ],
)
def test_wilson(successes: int, trials: int, low: float, high: float) -> None:
    assert wilson_interval(successes, trials) == pytest.approx((low, high), abs=1e-4)


def test_wilson_wants_a_share() -> None:
    with pytest.raises(ValueError, match=re.escape("successes must be in [0, trials = 3], got 4")):
        wilson_interval(4, 3)


def test_bootstrap_of_the_median() -> None:
    # n draws from 1..n have a median of 1 if more than half of them are 1: 0.058 for n = 5, 0.010 for n = 7;
    # and of at most 2 for n = 7 with 0.12. So 2.5 % lie at 1 and at 2.
    assert bootstrap_interval([1, 2, 3, 4, 5]) == (1, 5)
    assert bootstrap_interval([7, 5, 3, 1, 2, 4, 6]) == (2, 6)
    assert bootstrap_interval([0.5]) == (0.5, 0.5)
    assert bootstrap_interval([0, 0, 0, 0, 1]) == (0, 1)


def test_bootstrap_of_the_mean_is_near_the_normal_interval() -> None:
    values = np.random.default_rng(1).normal(size=400)
    half = 1.96 * values.std() / 20
    interval = bootstrap_interval(values.tolist(), np.mean)
    assert interval == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
    assert interval == bootstrap_interval(values.tolist(), np.mean)


@pytest.mark.parametrize("values", [[], [float("nan")]])
def test_bootstrap_wants_numbers(values: list[float]) -> None:
    with pytest.raises(ValueError, match="values must be one or more finite numbers"):
        bootstrap_interval(values)


def test_spread() -> None:
    summary = spread([0.2, 1.0, 0.6, 0.4])
    assert (summary.n, summary.median, summary.low, summary.high) == (4, 0.5, 0.2, 1.0)
    assert 0.2 <= summary.interval[0] <= 0.5 <= summary.interval[1] <= 1.0


def test_solved_counts_every_run() -> None:
    runs = [
        make_record(seed=0, accuracies={16: 1.0, 64: 0.7}),
        make_record(seed=1, accuracies={16: 1.0, 64: 0.5}),
        make_record(seed=2, accuracies={16: 0.98, 64: 0.98}),
        make_record(seed=3, diverged=True),
        make_record(seed=4, failed=True),
    ]
    assert solved(runs, [Criterion.parse("16:0.99")]) == (2, wilson_interval(2, 5))
    assert solved(runs, [Criterion.parse("1x:0.99"), Criterion.parse("4x:.6")]) == (1, wilson_interval(1, 5))
    assert [accuracy(run, 64) for run in runs] == [0.7, 0.5, 0.98, 0.0, 0.0]
    with pytest.raises(ValueError, match=r"criterion 32:0.99: run \w+ was tested at 16, 64, not at length 32"):
        solved(runs, [Criterion.parse("32:0.99")])


def test_criterion_by_another_measure() -> None:
    run = make_record(accuracies={16: 0.5})
    run["result"]["metrics"]["16"]["last"] = 0.95
    assert not Criterion.parse("16:0.95").met_by(run)
    assert Criterion.parse("last:16:0.95").met_by(run)
    assert str(Criterion.parse("last:2x:.95")) == "last:2x:0.95"


@pytest.mark.parametrize("text", ["16", "0:0.5", "16:0", "16:1.5", "first:16:0.5", "x:0.5"])
def test_criteria_that_are_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"expected LENGTH:ACCURACY such as 16:0\.99"):
        Criterion.parse(text)


def test_learning_rate_is_chosen_on_validation() -> None:
    def runs(lr: float, *validation: float, test: float = 0.0) -> list[dict]:
        return [make_record(seed=k, lr=lr, validation=v, accuracies={16: test}) for k, v in enumerate(validation)]

    rates = {1e-3: runs(1e-3, 0.2, 0.3, 1.0, test=1.0), 2e-3: runs(2e-3, 0.4, 0.4, 0.4)}
    assert best_learning_rate(rates) == 2e-3
    rates[4e-3] = [make_record(lr=4e-3, diverged=True)]
    assert best_learning_rate(rates) == 2e-3
    rates[8e-3] = runs(8e-3, 0.4)
    rates[8e-3][0]["result"]["curve"][0]["loss"] = 0.1
    assert best_learning_rate(rates) == 8e-3
    assert best_learning_rate({1e-3: [make_record(failed=True)]}) == 1e-3
    # Seed 0 chose 2e-3; its further seeds, which 1e-3 was never asked for, do not unseat it.
    more = {1e-3: runs(1e-3, 0.6), 2e-3: runs(2e-3, 0.9, 0.1, 0.1)}
    assert best_learning_rate(more) == 2e-3
    assert [[run["identity"]["seed"] for run in some] for some in comparable(more).values()] == [[0], [0]]
    apart = {1e-3: runs(1e-3, 0.6), 2e-3: runs(2e-3, 0.9, 0.1)[1:]}
    assert comparable(apart) == apart and best_learning_rate(apart) == 1e-3
    rates[1e-3][0]["result"] |= {"curve": [], "validation": None}
    assert best_learning_rate(rates) == 8e-3 and unvalidated(rates) == 1
    # The worst there is: nobody is chosen for what was not looked at.
    assert best_learning_rate({1e-3: rates[1e-3][:1], 2e-3: runs(2e-3, 0.1)}) == 2e-3
    assert unvalidated({1e-3: rates[1e-3]}) == 0, "a single rate is not chosen"
