"""Computations of studies against what can be said of them by hand."""

import numpy as np
import pytest
import torch

from seqmix.mixers import LRU, Attention
from seqmix.models import SequenceModel
from seqmix.optim import NGN
from seqmix.optim.sde import METHODS, Quadratic, discrete, euler_maruyama
from seqmix.studies.computations import (
    area,
    attention_gradients,
    curvature,
    diffusion_on_text,
    logistic_cycles,
    reconstruction,
    small_task,
)
from seqmix.studies.computations._descent import descend
from seqmix.studies.computations._hessian import hessian_trace, largest_eigenvalue
from seqmix.studies.computations.mixing_coefficients import measured
from seqmix.studies.computations.reservoir import signature
from seqmix.studies.computations.shift_width import _blaschke


def test_two_states_keep_one_token():
    """Weights g under noise s leave s^2 / (s^2 + |g|^2) of a token."""
    found = reconstruction.run(0, "real", 1, noise=0.5)
    poles = reconstruction.eigenvalues("real", 2, np.random.default_rng(0))
    assert found["error"] == pytest.approx(0.25 / (0.25 + (1 - poles**2).sum()))
    assert reconstruction.run(0, "roots of unity", 8)["condition"] < 1.01


def test_errors_are_those_of_least_squares():
    """The mean squared error, from a regression of tokens on noisy states."""
    rng = np.random.default_rng(3)
    poles = reconstruction.eigenvalues("real", 8, np.random.default_rng(1))
    v = np.sqrt(1 - poles[:, None] ** 2) * poles[:, None] ** np.arange(3, -1, -1)
    u = rng.standard_normal((200_000, 4))
    h = u @ v.T + 0.1 * rng.standard_normal((200_000, 8))
    left = u - h @ np.linalg.lstsq(h, u, rcond=None)[0]
    assert reconstruction.run(1, "real", 4, noise=0.1)["error"] == pytest.approx((left**2).mean(), rel=0.02)


def test_signatures_have_the_area():
    steps = np.random.default_rng(0).standard_normal((2, 7, 2))
    found = signature(steps, 2)[:, -1]  # levels 1 and 2: 2 + 4
    for path, levels in zip(steps, found, strict=True):
        assert levels[:2] == pytest.approx(path.sum(0))
        level2 = sum(np.outer(path[s], path[t]) for t in range(7) for s in range(t))
        level2 = level2 + sum(np.outer(each, each) / 2 for each in path)
        assert levels[2:] == pytest.approx(level2.ravel())


def test_area_is_a_double_sum():
    dx, target = area._paths(2, 5, torch.Generator().manual_seed(0))
    for row, wanted in zip(dx, target, strict=True):
        total = sum(row[s, 0] * row[t, 1] for t in range(5) for s in range(t)) + (row[:, 0] * row[:, 1]).sum() / 2
        assert wanted[-1].item() == pytest.approx(total.item() / 5, abs=1e-5)


def test_a_basis_of_equal_poles_is_orthonormal():
    basis = _blaschke(np.array([0.5, 0.5, 0.5 + 0.2j, 0.5 - 0.2j, 0.5]), 200)
    assert np.abs(basis @ basis.conj().T - np.eye(5)).max() < 1e-12


def test_cycles():
    points = [1, 1, 1, -2]
    assert [logistic_cycles.run(0, points, step)["period"] for step in (1.0, 1.9, 2.1)] == [1, 1, 2]


def test_gradients_of_chains_scale_with_width():
    assert curvature.run(0, 64, 8)["gradient"] < 1e-3 * curvature.run(0, 2, 8)["gradient"]
    assert attention_gradients.run(0, 1, True, 0.99)["ratio"] < 0.05 < attention_gradients.run(0, 1, True)["ratio"]


@pytest.mark.parametrize("method", METHODS)
def test_equations_follow_methods_without_noise(method):
    """Without noise both are Euler's method: the same steps give the same numbers, but for what order 1 leaves."""
    problem = Quadratic(noise=1e-9)
    start = torch.tensor([[1.0, -0.5]], dtype=torch.float64)
    zeros = torch.zeros(400, 1, 2, dtype=torch.float64)
    found = discrete(method, problem, start, zeros, 1e-3)
    expected = euler_maruyama(method, problem, start, zeros, 1e-3, 1e-3)
    assert (found - start).abs().max() > 0.1
    torch.testing.assert_close(found, expected, rtol=0.02, atol=2e-3)


def test_stationary_variance_of_descent():
    """Of dX = -h X dt + sqrt(eta) s dW it is eta s^2 / (2 h); of the method eta s^2 / (h (2 - eta h))."""
    problem, eta = Quadratic((1.0, 1.0), noise=2.0), 0.1
    noises = torch.randn(200, 5_000, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    x = discrete("sgd", problem, torch.zeros(5_000, 2, dtype=torch.float64), noises, eta)
    assert x.var().item() == pytest.approx(eta * 4 / (2 - eta), rel=0.05)


def test_an_unknown_method_is_told():
    with pytest.raises(ValueError, match="method must be one of sgd"):
        discrete("adamw", Quadratic(), torch.zeros(1, 2), torch.zeros(1, 1, 2), 0.1)


def test_curvature_of_a_quadratic():
    h = torch.tensor([3.0, -7.0, 0.5], dtype=torch.float64)
    x = [torch.ones(3, dtype=torch.float64, requires_grad=True)]
    gradients = torch.autograd.grad((h * x[0] ** 2).sum() / 2, x, create_graph=True)
    assert largest_eigenvalue(gradients, x, [torch.ones(3, dtype=torch.float64)], 40) == pytest.approx(7.0)
    assert hessian_trace(gradients, x, 0, 2) == pytest.approx(-3.5)  # exact where the Hessian is diagonal


def test_descent_gives_losses_to_those_that_ask_and_ends_where_there_is_none():
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    seen = []

    def loss_at(step):
        return model.weight.square().sum() / 2 * (1 if step < 3 else torch.nan)

    optimizer = NGN(model.parameters(), lr=1.0)
    descend(model, optimizer, loss_at, steps=9, clip=0, watch=lambda step, model: seen.append(model.weight.item()))
    assert seen == pytest.approx([0.5, 0.25, 0.125])  # gamma is 1/2 everywhere


def test_coefficients_of_even_attention():
    """Without scores a token is the mean of those up to it."""
    layer = Attention(8, n_heads=2)
    torch.nn.init.zeros_(layer.qkv_proj.weight[:16])
    with torch.no_grad():
        found = measured(layer, torch.randn(2, 64, 8))
    late = range(33, 65)  # tokens that a row of the second half sees
    assert found["lag"] == pytest.approx(sum((n - 1) / 2 for n in late) / 32, rel=1e-4)
    assert found["tokens"] == pytest.approx(sum(late) / 32, rel=1e-4)
    assert found["negative"] == 0 and found["sums"] < 1e-5 and found["error"] < 1e-5
    assert found["decay"] == pytest.approx(-np.log(64 / 2) / 62, rel=1e-4)


def test_the_models_of_diffusion_and_of_the_next_byte_are_of_one_size():
    twin = diffusion_on_text._next_byte(0, 64, 0, 1)
    diffusion = SequenceModel(
        diffusion_on_text._MIXER, 256 + 1 + diffusion_on_text._BINS, 64, 2, mlp_ratio=2, bidirectional=True
    )
    assert twin.num_parameters() == pytest.approx(diffusion.num_parameters(), rel=0.01)


def test_starts_of_lru():
    """A start `alone` has no gamma, and one on a ring lies there."""
    found = {}

    def watched(model, *_, **__):
        found["layer"] = next(module for module in model.modules() if isinstance(module, LRU))
        raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_task, "create_optimizer", lambda name, model, **_: watched(model))
        for start, least, gamma in (("disk", 0.0, False), ("phase", 0.9, False), ("ring alone", 0.9, True)):
            with pytest.raises(InterruptedError):
                small_task.run(0, 64, "lru", 1e-3, "digits", start=start)
            layer = found["layer"]
            assert layer.eigenvalues().abs().min() >= least
            assert bool((layer.gamma_log == 0).all()) is gamma and layer.gamma_log.requires_grad is not gamma
            if start == "phase":
                assert layer.eigenvalues().angle().abs().max() <= np.pi / 10 + 1e-6
