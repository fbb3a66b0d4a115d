"""Eigenvalues are those that are known, and the layers of a model are seen at work without being changed."""

import pytest
import torch

from seqmix.inspect import eigenvalues, observe
from seqmix.mixers import BDLRU, LRU, LSTM, DeltaNet, FixedPointRNN, GatedLinearAttention, Mamba
from seqmix.models import SequenceModel


def tokens(length=5, d_model=8):
    return torch.randn(2, length, d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_cycles_have_roots_of_unity():
    layer = BDLRU(8, d_state=8, block_size=4, dtype=torch.float64)
    with torch.no_grad():
        layer.proj_gates.weight.zero_()
        bias = torch.zeros(2, 4, 5)
        bias[:, torch.arange(4), (torch.arange(4) + 1) % 4] = 1000
        layer.proj_gates.bias.copy_(bias.flatten())
    found = eigenvalues(layer, tokens())
    assert found.shape == (2, 5, 8) and found.dtype == torch.complex128
    for root in (1, -1, 1j, -1j):
        assert ((found - root).abs() < 1e-12).sum(-1).eq(2).all()


def test_lru_has_its_lambda_at_every_token():
    layer = LRU(8, d_state=3, dtype=torch.float64)
    torch.testing.assert_close(eigenvalues(layer, tokens()), layer.eigenvalues().expand(2, 5, 3), rtol=0, atol=0)


def test_signs():
    x = 30 * tokens(50)
    for kind, low in (("positive", 0), ("signed", -1)):
        found = eigenvalues(Mamba(8, eigenvalues=kind, dtype=torch.float64), x)
        assert not found.imag.any() and found.real.min() >= low and (found.real.min() < 0) == (low < 0)


def test_a_turn_is_part_of_the_transition():
    """Keys of length zero leave the turn alone; a reflection in the plane of a turn is a reflection again."""
    omega = torch.tensor([0.3, 1.1], dtype=torch.float64)
    layer = DeltaNet(4, n_heads=1, position="rope", eigenvalues="signed", d_conv=1, dtype=torch.float64)
    layer.position.increments = lambda x, window, cu: (omega.expand(*x.shape[:2], 1, 2), window)
    beta = torch.zeros(2, 5, 1, 1, dtype=torch.float64)
    layer.gates = lambda x: (beta, None)
    found = eigenvalues(layer, tokens(5, 4))
    expected = torch.polar(
        torch.ones(4, dtype=torch.float64), torch.tensor([-1.1, -0.3, 0.3, 1.1], dtype=torch.float64)
    )
    angles = found.angle().sort(-1).values
    torch.testing.assert_close(angles, expected.angle().expand_as(angles), rtol=1e-9, atol=1e-9)
    with torch.no_grad():
        layer.in_proj.weight[4:8] = 0
        layer.in_proj.weight[4] = 5  # keys along the first axis, a pair with the third
    x = tokens(5, 4).abs() + 0.1
    beta.fill_(2.0)
    found = eigenvalues(layer, x)
    # Keys of length k become ones of length k / sqrt(k^2 + 1e-6).
    torch.testing.assert_close(found.real.amin(-1), torch.full((2, 5), -1.0).double(), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found.prod(-1).real, torch.full((2, 5), -1.0).double(), rtol=1e-6, atol=1e-6)


def test_layers_without():
    with pytest.raises(ValueError, match="LSTM has no transition that belongs to a token"):
        eigenvalues(LSTM(8), tokens().float())
    with pytest.raises(ValueError, match="GatedLinearAttention has no transition"):
        eigenvalues(GatedLinearAttention(8, 2, "rope", tie_decay=False), tokens().float())
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, d_model = 8\)"):
        eigenvalues(LRU(8), torch.zeros(2, 8))


def test_a_model_is_observed_as_it_runs_and_left_as_it_was():
    model = SequenceModel(["fp-rnn", "attention"], 5, 8, n_layers=2, dropout=0.5)
    model.blocks[1].eval()
    words = torch.randint(5, (3, 6))
    model(words)
    solve, state = model.blocks[0].mixer.last_solve, torch.random.get_rng_state()
    said = observe(model, lambda mixer, x: (type(mixer).__name__, x), words[:2])
    assert list(said) == ["blocks.0.mixer", "blocks.1.mixer"]
    assert [name for name, _ in said.values()] == ["FixedPointRNN", "Attention"]
    first = model.blocks[0].mixer_norm(model.embedding(words[:2]))
    torch.testing.assert_close(said["blocks.0.mixer"][1], first, rtol=0, atol=0)  # no dropout
    assert model.training and not model.blocks[1].training and model.blocks[0].training
    assert model.blocks[0].mixer.last_solve is solve and torch.equal(torch.random.get_rng_state(), state)
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_both_directions_are_observed():
    model = SequenceModel("bd-lru", 5, 8, bidirectional=True)
    said = observe(model, lambda mixer, x: x, torch.randint(5, (2, 6)))
    ahead, back = said["blocks.0.mixer.ahead"], said["blocks.0.mixer.back"]
    assert len(said) == 2
    torch.testing.assert_close(back, ahead.flip(1), rtol=0, atol=0)


def test_fixed_points_say_what_their_diagnostics_do():
    layer = FixedPointRNN(8, dtype=torch.float64)
    x = tokens()
    assert eigenvalues(layer, x).equal(layer.diagnostics(x)["eigenvalues"])
