"""Both directions: each sequence alone, padded or packed; what stands outside of it never reaches it."""

import pytest
import torch

from seqmix.mixers import create_mixer
from seqmix.models import Bidirectional, SequenceModel

NAMES = ["attention", "bd-lru", "gla", "h-lru", "lru", "lstm", "mamba"]


def build(name: str) -> Bidirectional:
    torch.manual_seed(0)
    return Bidirectional(*(create_mixer(name, 8, dtype=torch.float64) for _ in range(2)))


def same(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("name", NAMES)
def test_padded_and_packed_are_each_sequence_alone(name: str) -> None:
    layer, lengths = build(name), torch.tensor([3, 6, 1])
    x = torch.randn(3, 6, 8, dtype=torch.float64, requires_grad=True)
    alone = []
    for row, length in zip(x, lengths.tolist(), strict=True):
        part = row[None, :length]
        alone.append(layer.ahead(part)[0] + layer.back(part.flip(1))[0].flip(1))
    expected = torch.cat(alone, dim=1)
    inside = torch.arange(6) < lengths[:, None]
    same(layer(x, lengths=lengths)[0][inside], expected[0])
    cu_seqlens = torch.tensor([0, 3, 9, 10], dtype=torch.int32)
    same(layer(x[inside][None], cu_seqlens=cu_seqlens)[0], expected)
    same(layer(x[1:2])[0], alone[1])
    (gradient,) = torch.autograd.grad(layer(x, lengths=lengths)[0][inside].square().sum(), x)
    (reference,) = torch.autograd.grad(expected.square().sum(), x)
    same(gradient, reference)
    assert not gradient[~inside].any(), "padding has no influence"


def test_every_position_sees_every_other() -> None:
    layer = build("bd-lru")
    x = torch.randn(1, 5, 8, dtype=torch.float64, requires_grad=True)
    for t in range(5):
        (gradient,) = torch.autograd.grad(layer(x)[0][0, t].sum(), x)
        assert gradient[0].abs().sum(-1).gt(0).all()


def test_a_model_gives_each_layer_two_mixers() -> None:
    model = SequenceModel(["lstm", "lru"], 11, 8, 2, bidirectional=True)
    assert [type(mixer).__name__ for mixer in model.mixers] == ["Bidirectional"] * 2
    assert model.config["mixer"] == [{"name": "lstm"}, {"name": "lru"}]
    one = SequenceModel(["lstm", "lru"], 11, 8, 2)
    mixing = sum(p.numel() for mixer in one.mixers for p in mixer.parameters())
    assert model.num_parameters() == one.num_parameters() + mixing
    assert model.state_size(7) == 2 * one.state_size(7)


def test_what_cannot_be_read_backwards_is_refused() -> None:
    with pytest.raises(ValueError, match="back must have the width d_model = 8 of ahead, got 4"):
        Bidirectional(create_mixer("lstm", 8), create_mixer("lstm", 4))
    layer = build("lstm")
    with pytest.raises(ValueError, match="state must be None, got a LSTMState"):
        layer(torch.randn(1, 2, 8, dtype=torch.float64), layer.ahead.init_state(1))
    with pytest.raises(ValueError, match="needs a causal mixer"):
        layer.step(torch.randn(1, 8), None)
    model, tokens = SequenceModel("lstm", 11, 8, bidirectional=True), torch.zeros(1, 3, dtype=torch.int64)
    with pytest.raises(ValueError, match="bidirectional layers need the whole sequence"):
        model(tokens, model(tokens)[1])
    with pytest.raises(ValueError, match="generate: needs causal layers and a language head, got bidirectional"):
        model.generate(tokens, 2)
