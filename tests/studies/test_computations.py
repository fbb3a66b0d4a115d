"""Computations of studies against what can be said of them by hand."""

import numpy as np
import pytest
import torch

from seqmix.optim.sde import METHODS, Quadratic, discrete, euler_maruyama
from seqmix.studies.computations import area, attention_gradients, curvature, logistic_cycles, reconstruction
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
