"""Gradient norms are those that are known, and those of autograd's own Jacobian."""

import math

import pytest
import torch

from seqmix.inspect import gradient_norms, gradients
from seqmix.mixers import BDLRU, LRU, Attention, DenseRNN, create_mixer
from seqmix.models import SequenceModel


def tokens(length=12, d_model=4, batch=2):
    return torch.randn(batch, length, d_model, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@torch.no_grad()
def rotating_lru(radius, phase):
    """y = (Re h, Im h) and h = lambda h + gamma (x_1 + i x_2): every Jacobian is a rotation times gamma |lambda|^k."""
    layer = LRU(2, d_state=1, dtype=torch.float64)
    layer.nu_log.fill_(math.log(-math.log(radius)))
    layer.theta_log.fill_(math.log(phase))
    layer.gamma_log.fill_(math.log(0.5))
    layer.B_re.copy_(torch.tensor([[1.0, 0.0]]))
    layer.B_im.copy_(torch.tensor([[0.0, 1.0]]))
    layer.C_re.copy_(torch.tensor([[1.0], [0.0]]))
    layer.C_im.copy_(torch.tensor([[0.0], [-1.0]]))
    layer.D.zero_()
    return layer


@pytest.mark.parametrize("radius", [0.5, 0.99])
def test_lru_forgets_by_lambda(radius):
    found = gradient_norms(rotating_lru(radius, 0.7), tokens(60, 2))
    expected = 0.5 * radius ** torch.arange(60, dtype=torch.float64)
    torch.testing.assert_close(found, expected.expand(2, -1), rtol=1e-10, atol=0)


@torch.no_grad()
def test_permutations_forget_nothing():
    layer = DenseRNN(4, d_state=4, dtype=torch.float64)
    layer.proj_transition.weight.zero_()
    eye = torch.eye(4, dtype=torch.float64)
    layer.proj_transition.bias.copy_(eye[[1, 2, 3, 0]].flatten())
    layer.proj_in.weight.copy_(eye)
    layer.proj_out.weight.copy_(eye)
    torch.testing.assert_close(gradient_norms(layer, tokens()), torch.ones(2, 12).double(), rtol=1e-12, atol=0)


@torch.no_grad()
def test_saturated_gates_of_bd_lru_keep_what_the_first_token_wrote():
    layer = BDLRU(4, d_state=2, block_size=2, dtype=torch.float64)
    layer.proj_gates.weight.zero_()
    layer.proj_gates.bias.zero_()
    # x = e_1 writes, x = e_2 swaps; both so surely that gates have no slope.
    logits = torch.zeros(4, 2, 2, 3, dtype=torch.float64)[:, 0]
    logits[0, :, 2] = logits[1, 0, 1] = logits[1, 1, 0] = 2000
    layer.proj_gates.weight.copy_(logits.flatten(1).T)
    layer.proj_v.weight.copy_(torch.eye(4)[:2])
    layer.proj_out.weight.copy_(torch.eye(4)[:, :2])
    x = torch.eye(4, dtype=torch.float64)[[0, 1, 1, 1, 1, 1]][None]
    found = gradient_norms(layer, x)
    torch.testing.assert_close(found, torch.tensor([[0.0, 0, 0, 0, 0, 1]]).double(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["gla", "lstm", "fp-rnn", "mamba"])
def test_they_are_those_of_the_jacobian(name, monkeypatch):
    torch.manual_seed(0)
    layer, x = create_mixer(name, 8, dtype=torch.float64), tokens(5, 8)
    leaf = x[:1].clone().requires_grad_()
    y = layer(leaf)[0][0, -1]
    rows = [torch.autograd.grad(value, leaf, retain_graph=True)[0][0] for value in y]
    found = gradient_norms(layer, x)
    torch.testing.assert_close(found[0], torch.linalg.matrix_norm(torch.stack(rows, 1), 2).flip(0))
    monkeypatch.setattr(gradients, "_NUMBERS", 3 * x[0].numel())  # rows in parts of 3
    torch.testing.assert_close(gradient_norms(layer, x), found, rtol=1e-9, atol=1e-12)


def test_a_window_ends_them():
    found = gradient_norms(Attention(4, n_heads=1, window=3, dtype=torch.float64), tokens())
    assert (found[:, :3] > 1e-4).all() and not found[:, 3:].any()


def test_of_a_model_they_are_those_of_logits_in_embeddings():
    torch.manual_seed(0)
    model = SequenceModel("bd-lru", 5, 4, n_layers=2, dropout=0.5, dtype=torch.float64)
    words = torch.randint(5, (2, 6))
    found = gradient_norms(model, words)
    assert found.shape == (2, 6) and model.training
    model.eval()
    embeddings = model.embedding(words[:1]).detach().requires_grad_()
    hook = model.embedding.register_forward_hook(lambda *args: embeddings)
    logits = model(words[:1])[0][0, -1]
    hook.remove()
    jacobian = torch.stack([torch.autograd.grad(value, embeddings, retain_graph=True)[0][0] for value in logits], 1)
    torch.testing.assert_close(found[0], torch.linalg.matrix_norm(jacobian, 2).flip(0), rtol=1e-9, atol=1e-12)
    answers = SequenceModel("attention", 5, 8, head={"name": "classification", "n_classes": 3})
    assert gradient_norms(answers, words).shape == (2, 6)


def test_what_does_not_fit_is_told():
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, d_model\)"):
        gradient_norms(LRU(4), torch.zeros(3, 4))
    with pytest.raises(ValueError, match="module must be a TokenMixer or SequenceModel, got Linear"):
        gradient_norms(torch.nn.Linear(4, 4), tokens())
    with pytest.raises(ValueError, match="tokens must be an int64 tensor"):
        gradient_norms(SequenceModel("lru", 5, 4), tokens())
