"""Conditions of verdicts, by hand."""

import math

import pytest

from seqmix.studies.rules import check_condition, evaluate, verdict

ROWS = [
    {"n": n, "rate": rate, "seed": seed, "loss": (math.log2(rate) - math.log2(8 / n)) ** 2 + 1 + seed}
    for n in (1, 2, 4)
    for rate in (0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
    for seed in (0, 1, 2)
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("loss(n=1, rate=8.0)", 2.0),  # the median of 1, 2, 3
        ("loss(n=1, rate=4.0) - loss(n=1, rate=8.0)", 1.0),
        ('least(loss, "rate", n=2)', 2.0),
        ('where_least(loss, "rate", n=2)', 4.0),
        ('where_most(loss, "rate", n=1)', 0.5),
        ('inside(loss, "rate", n=2)', True),
        ("share(loss, 3, n=1, rate=8.0)", 1 / 3),
        ("spread(loss, n=1, rate=8.0)", 1.0),
        ("largest(loss, n=1, rate=8.0)", 3.0),
        ('mean(loss, "rate", n=1)', 2 + (16 + 9 + 4 + 1 + 0 + 1) / 6),
        ("1 < loss(n=1, rate=8.0) <= 2 and not loss(n=1, rate=8.0) == 1", True),
        ("abs(-2) / 4", 0.5),
    ],
)
def test_values(text, expected):
    assert evaluate(text, ROWS) == pytest.approx(expected)


def test_the_best_rate_drifts():
    assert evaluate('drift(loss, "rate", "n")', ROWS) == pytest.approx(-1.0, abs=1e-9)
    line = [{"n": n, "seed": 0, "y": 3 * n**-0.5} for n in (1, 4, 9)]
    assert evaluate('slope(y, "n")', line) == pytest.approx(-0.5)


def test_infinite_is_what_has_no_number():
    rows = [{"rate": 1, "seed": 0, "loss": None}, {"rate": 2, "seed": 0, "loss": 3.0}]
    assert evaluate('least(loss, "rate")', rows) == 3.0 and evaluate("loss(rate=1)", rows) == math.inf


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("loss(n=1)", "name more factors"),
        ("loss(1)", "expected factors by name"),
        ("loss(n=9, rate=1.0)", "no rows with loss"),
        ("other(n=1, rate=1.0)", "no rows with other"),
        ('__import__("os").system("x")', "expected measures"),
        ("[1][0]", "expected measures"),
        ("loss(", "expected a condition"),
        ("least(loss)", "least: expected 2 arguments, got 1"),
        ("abs()", "abs: expected 1 arguments, got 0"),
    ],
)
def test_what_is_no_condition_is_told(text, message):
    with pytest.raises(ValueError, match=message):
        evaluate(text, ROWS)


@pytest.mark.parametrize("text", ["(lambda: 1)()", "x.y", "{1: 2}", "f'{1}'", "a if b else c"])
def test_nothing_runs(text):
    with pytest.raises(ValueError, match="expected"):
        check_condition(text)


@pytest.mark.parametrize(
    ("conditions", "seeds", "expected"),
    [
        ({"threshold": "y(n=1) > 1"}, 1, "reproduced"),
        ({"threshold": "y(n=1) > 1"}, 3, "in part"),  # with fewer seeds than were planned
        ({"sign": "y(n=1) > 0", "threshold": "y(n=1) > 5"}, 1, "in part"),
        ({"sign": "y(n=1) > 3", "threshold": "y(n=1) > 5"}, 1, "not at this size"),
        ({"sign": "y(n=1) > 3", "threshold": "y(n=1) > 5"}, 3, "incomplete"),  # one seed denies nothing
        ({"threshold": "y(n=1) > 5", "against": "y(n=1) < 3"}, 1, "contradicted"),
        ({"control": "y(n=1) > 5", "threshold": "y(n=1) > 1"}, 1, "inconclusive"),
        ({"threshold": "y(n=2) > 1"}, 1, "incomplete"),
        ({"threshold": 'drift(y, "n", "seed") == 0'}, 1, "inconclusive"),
        ({"threshold": "z(n=1) > 1", "against": "z(n=1) > 2"}, 1, "not at this size"),  # diverged: larger than nothing
    ],
)
def test_verdicts(conditions, seeds, expected):
    assert verdict(conditions, [{"n": 1, "seed": 0, "y": 2.0, "z": None}], seeds) == expected


def test_reproduced_needs_the_seeds_where_the_condition_looks():
    rows = [{"n": 1, "seed": 0, "y": 2.0}] + [{"n": 2, "seed": seed, "y": 2.0} for seed in (0, 1, 2)]
    assert verdict({"threshold": "y(n=1) > 1"}, rows, 3) == "in part"
    assert verdict({"threshold": "y(n=2) > 1"}, rows, 3) == "reproduced"


@pytest.mark.parametrize("text", ["share(y, 1) == 1", "largest(y) < 3"])
def test_rows_of_three_levels_are_not_three_seeds(text):
    rows = [{"n": n, "seed": seed, "y": 2.0} for n in (1, 2, 3) for seed in (0, 1)]
    assert verdict({"threshold": text}, rows, 3) == "in part" and verdict({"threshold": text}, rows, 2) == "reproduced"


def test_no_rows_no_verdict():
    assert verdict({"threshold": "1 > 2"}, [], 1) == "not tried"
