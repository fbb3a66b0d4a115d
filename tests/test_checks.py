"""Whole numbers that arguments must be."""

import pytest

from seqmix._checks import integers, log_grid, positive
from seqmix.tasks import create_task
from seqmix.training import callbacks


@pytest.mark.parametrize(
    ("value", "least", "message"),
    [
        (0, 1, "X: n must be a positive integer, got 0"),
        (True, 1, "X: n must be a positive integer, got True"),
        (1.0, 1, "X: n must be a positive integer, got 1.0"),
        (-1, 0, "X: n must be an integer of at least 0, got -1"),
        (False, 0, "X: n must be an integer of at least 0, got False"),
        ("2", 2, "X: n must be an integer of at least 2, got '2'"),
    ],
)
def test_what_is_no_such_integer_is_named(value: object, least: int, message: str) -> None:
    for check in (lambda: positive("X", "n", value, least), lambda: integers("X", least, m=3, n=value)):
        with pytest.raises(ValueError) as error:
            check()
        assert str(error.value) == message
    assert positive("X", "n", 2, least) == 2


@pytest.mark.parametrize("values", [[], [1, 0], [1, True], (2, 1.5)])
def test_items_are_looked_at(values: object) -> None:
    with pytest.raises(ValueError, match="X: n must be positive integers, got "):
        integers("X", n=values)
    integers("X", n=[1, 2])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: callbacks.NonFiniteGuard(True), "every_n_steps"),
        (lambda: callbacks.LengthCurriculum(start=True), "start"),
        (lambda: callbacks.Checkpoints(every_n_steps=True), "every_n_steps"),
        (lambda: callbacks.StopWhenSolved(patience=True), "patience"),
        (lambda: callbacks.GateEntropyPenalty(delay=False), "delay"),
        (lambda: create_task("parity", num_workers=False), "num_workers"),
        (lambda: create_task("parity", eval_lengths=[True, 4]), "eval_lengths"),
    ],
)
def test_true_is_no_number_of_anything(make, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} must be .* integer"):
        make()


def test_a_grid_has_equal_ratios() -> None:
    assert log_grid(1e-3, 1e1, 5) == (0.001, 0.01, 0.1, 1.0, 10.0)
