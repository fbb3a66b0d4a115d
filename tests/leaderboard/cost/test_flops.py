"""Operations counted by hand."""

from typing import Any

import pytest
import torch

from seqmix.leaderboard.cost.flops import flops_per_token, mean_iterations
from seqmix.mixers import list_mixers
from seqmix.models import SequenceModel

D, V, T = 16, 5, 12  # width, vocabulary, length
HEAD = 2 * D * V


@pytest.mark.parametrize(
    ("mixer", "by_hand"),
    [
        # Projections of D to the gates (with N blocks of m), the values, and back; the gated scan.
        ({"name": "bd-lru", "block_size": 4}, 2 * D * D * 5 + 2 * D * D * 2 + 2 * D * 5),
        # m + 1 gates a channel; all m lags are read out.
        ({"name": "h-lru", "order": 3}, 2 * D * D * 4 + 2 * D * D + 2 * D * 3 * D + 2 * D * 4),
        # B and C are complex and real matrices meet real vectors; the state is complex.
        ({"name": "lru"}, 4 * 2 * D * D + 8 * D),
        ({"name": "lstm"}, 8 * D * (D + D) + 4 * D + 2 * D * D),
        ({"name": "gru"}, 6 * D * (D + D) + 6 * D + 2 * D * D),
        # Four heads of N: gates of x and of h, the cell; the convolution; out.
        ({"name": "slstm"}, 2 * 4 * D * D // 4 + D * (8 * D // 4 + 7) + 2 * 4 * D + 2 * D * D),
        # q, k, v, g, the decay and out; three convolutions; H W and k v^T, the gate and the read-out on K V numbers.
        ({"name": "m2rnn"}, 2 * 5 * D * D + 2 * 4 * D + 2 * 4 * 3 * D + D * D // 4 * (2 * D // 4 + 7)),
        # q, k, v and output; scores and their sums over T keys.
        ({"name": "attention"}, 4 * 2 * D * D + 2 * 2 * T * D),
        # The transition, x and out; four squarings that bound its norm; the scan.
        ({"name": "dense", "d_state": 3}, 2 * D * 9 + 2 * 2 * D * 3 + 4 * 2 * 27 + 2 * 9),
    ],
)
def test_by_hand(mixer: dict[str, Any], by_hand: int) -> None:
    assert flops_per_token(SequenceModel(mixer, V, D, mlp_ratio=0), T) == by_hand + HEAD


@pytest.mark.parametrize("mixer", list_mixers())
def test_every_mixer_is_counted_whole(mixer: str) -> None:
    """Nothing is left out: a layer takes 2 operations for each weight of a matrix at the least."""
    model = SequenceModel(mixer, V, D, n_layers=2, mlp_ratio=2)
    matrices = sum(p.numel() for p in model.blocks.parameters() if p.ndim == 2)
    one, other = flops_per_token(model, T), flops_per_token(model, 2 * T)
    assert one >= 2 * 0.95 * matrices
    if mixer == "mamba-3":  # which goes through one token more than there are
        assert one * (T + 0.5) / (T + 1) < other < one
    else:
        assert (other > one) if mixer in ("attention", "path", "log-linear") else (other == one)


def test_iterations_count() -> None:
    model = SequenceModel("fp-mamba", V, D)
    iterations = mean_iterations(model, T)
    assert iterations > 1
    assert flops_per_token(model, T, iterations=iterations) > flops_per_token(model, T)
    assert mean_iterations(SequenceModel("lstm", V, D), T) == 1


def test_wrong_length() -> None:
    with pytest.raises(ValueError, match="length must be at least 1, got 0"):
        flops_per_token(SequenceModel("lstm", V, D), 0)


def test_layer_that_needs_numbers() -> None:
    class Peeking(torch.nn.Module):
        def forward(self, x: torch.Tensor, *args: Any) -> Any:
            return (x if float(x.sum()) > 0 else -x), None

    class Model(SequenceModel):
        def __init__(self, **config: Any) -> None:
            super().__init__(**config)
            self.blocks[0] = Peeking()  # type: ignore[assignment]

    model = SequenceModel("lstm", V, D)
    model.__class__ = Model
    with pytest.raises(NotImplementedError, match="flops_per_token: shapes are not enough for"):
        flops_per_token(model, T)
