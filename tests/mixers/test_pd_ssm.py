"""PD-SSM: any automaton exactly, the published gradient against its dense form, and what stays exact beside it."""

from functools import partial

import pytest
import torch

from seqmix import PDSSM
from seqmix.kernels import backend
from seqmix.testing import check_mixer


def tracking(step: torch.Tensor) -> PDSSM:
    """The layer whose state is that of the automaton `step` (letters, states) on one-hot letters."""
    letters, states = step.shape
    layer = PDSSM(letters, states, n_transitions=letters)
    with torch.no_grad():
        layer.select_proj.weight.copy_(50 * torch.eye(letters))
        layer.dictionary.copy_(torch.nn.functional.one_hot(step, states).mT)
        for linear, bias in ((layer.magnitude[2], 30.0), (layer.phase[2], -30.0)):
            linear.weight.zero_()
            linear.bias.fill_(bias)
        layer.in_proj.weight.zero_()
    return layer


def test_is_any_automaton():
    """Not only groups: letters may send two states to one, so that a word read backwards ends elsewhere."""
    generator = torch.Generator().manual_seed(0)
    step, letters = torch.randint(8, (5, 8), generator=generator), torch.randint(5, (300,), generator=generator)
    state, expected = 0, []
    for letter in letters.tolist():
        state = int(step[letter, state])
        expected.append(state)
    layer, x = tracking(step), torch.nn.functional.one_hot(letters, 5).float()[None]
    form = layer.linear_form(x)
    h = form.read()[0, :, 0, :, 0]
    assert h.abs().argmax(-1).tolist() == expected
    torch.testing.assert_close(layer(x)[1].h[0].abs(), torch.eye(8)[expected[-1]], rtol=0, atol=1e-4)


@pytest.mark.parametrize("lengths", [None, [4, 0, 3]], ids=str)
def test_the_gradient_is_that_of_dense_soft_columns(lengths):
    torch.manual_seed(0)
    layer = PDSSM(6, 5, n_transitions=3, dtype=torch.float64)
    x = torch.randn(1 if lengths else 2, 7, 6, dtype=torch.float64, requires_grad=True)
    offsets = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    found = []
    for name in (None, "reference"):
        with backend(name):
            y, state = layer(x, cu_seqlens=offsets)
            loss = y.sin().sum() + state.h.real.sum() - 2 * state.h.imag.sum()
            found.append((y, *torch.autograd.grad(loss, [x, *layer.parameters()])))
    assert all(gradient.any() for gradient in found[0])
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


def test_without_the_published_gradient_it_is_the_derivative():
    check_mixer(partial(PDSSM, gradient="exact"), only="gradients*")


def test_bad_arguments():
    with pytest.raises(ValueError, match="gradient must be one of 'straight-through', 'exact'"):
        PDSSM(4, gradient="soft")
