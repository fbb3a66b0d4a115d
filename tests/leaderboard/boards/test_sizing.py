"""Widths that meet a budget, for every mixer of the registry."""

import pytest

from seqmix.leaderboard.boards.budget import Budget
from seqmix.leaderboard.boards.sizing import TaskShape, solve
from seqmix.mixers import list_mixers
from seqmix.models import SequenceModel

SHAPE = TaskShape({"d_model": 64, "n_layers": 1, "mlp_ratio": 2}, 16, 40, 64 * 40, 600)
TWO = TaskShape({"d_model": 48, "n_layers": 2, "mlp_ratio": 0}, 16, 32, 32 * 32, 600)


@pytest.mark.parametrize("mixer", list_mixers())
@pytest.mark.parametrize("shape", [SHAPE, TWO], ids=["mlp", "two layers"])
def test_equal_parameters(mixer: str, shape: TaskShape) -> None:
    size = solve(mixer, {"name": mixer}, shape, Budget("parameters", 60_000))
    model = SequenceModel(size.mixer, 16, **{**shape.model, "d_model": size.d_model})
    parameters = model.num_parameters() - 2 * 16 * size.d_model  # embedding and head
    assert parameters == size.parameters == pytest.approx(60_000, rel=0.05)


@pytest.mark.parametrize("mixer", list_mixers())
@pytest.mark.parametrize("shape", [SHAPE, TWO], ids=["mlp", "two layers"])
def test_equal_state(mixer: str, shape: TaskShape) -> None:
    size = solve(mixer, {"name": mixer}, shape, Budget("state_size", 2048))
    model = SequenceModel(size.mixer, 16, device="meta", **{**shape.model, "d_model": size.d_model})
    assert model.state_size(shape.length) == size.state_size == pytest.approx(2048, rel=0.07)
    # Attention has no knob of its own, and 15 levels are more than that at any.
    if mixer not in ("attention", "path", "log-linear"):
        assert size.d_model == pytest.approx(shape.model["d_model"], rel=0.1)


def test_state_that_a_row_fixes_stays() -> None:
    size = solve("row", {"name": "bd-lru", "block_size": 4, "d_state": 16}, SHAPE, Budget("parameters", 30_000))
    assert size.mixer["d_state"] == size.d_state == 16
    size = solve("row", {"name": "gla", "n_heads": 4, "expand_k": 1.0}, SHAPE, Budget("parameters", 60_000))
    assert size.mixer["expand_k"] == 1.0 and size.d_model % 4 == 0


def test_equal_flops_solve_the_steps() -> None:
    sizes = [solve(name, {"name": name}, SHAPE, Budget("flops", 1e12)) for name in ("bd-lru", "attention", "fp-rnn")]
    for size in sizes:
        assert size.d_model == 64 and size.flops == pytest.approx(1e12, rel=0.01)
        assert size.flops == 3 * size.flops_per_token * size.max_steps * 64 * 40
    assert len({size.max_steps for size in sizes}) == 3


@pytest.mark.parametrize(
    ("mixer", "budget", "words"),
    [
        ({"name": "bd-lru"}, Budget("parameters", 30), "my-row.*'bd-lru'.*parameters 30"),
        ({"name": "attention"}, Budget("state_size", 100), "my-row.*'attention'.*state_size 100.*320 at d_model 4"),
        ({"name": "lstm"}, Budget("flops", 10), "my-row.*'lstm'.*flops 10: one step takes"),
        ({"name": "bd-lru", "block_sise": 2}, Budget("parameters", 60_000), "did you mean 'block_size'"),
        ({"name": "bd-lru", "block_size": 0}, Budget("state_size", 64), "block_size must be a positive integer"),
    ],
)
def test_no_width_fits(mixer: dict[str, object], budget: Budget, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        solve("my-row", mixer, SHAPE, budget)
