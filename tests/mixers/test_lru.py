"""`LRU`: the paper's equations, ring initialisation and variance."""

import math

import pytest
import torch

from seqmix.mixers import LRU


def test_equals_the_equations() -> None:
    """A loop in complex128 over section 3's equations, with no factor 2 in Re(C h)."""
    layer = LRU(6, 5, dtype=torch.float64)
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    eigenvalues = torch.exp(-torch.exp(layer.nu_log) + 1j * torch.exp(layer.theta_log))
    b, c = torch.complex(layer.B_re, layer.B_im), torch.complex(layer.C_re, layer.C_im)
    h, expected = torch.zeros(2, 5, dtype=torch.complex128), []
    for t in range(20):
        h = eigenvalues * h + torch.exp(layer.gamma_log) * (x[:, t].to(b.dtype) @ b.T)
        expected.append((h @ c.T).real + layer.D * x[:, t])
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state.h, h, rtol=1e-10, atol=1e-10)


def test_eigenvalues_start_uniform_on_the_ring() -> None:
    layer = LRU(1, 20_000, r_min=0.4, r_max=0.9, max_phase=1.0)
    magnitude, phase = layer.eigenvalues().abs(), layer.eigenvalues().angle()
    assert magnitude.min() >= 0.4 - 1e-6 and magnitude.max() <= 0.9 + 1e-6
    # Uniform in area: the squared radius is uniform, so its mean is the middle of the squares.
    assert abs(magnitude.square().mean().item() - (0.16 + 0.81) / 2) < 0.005
    assert phase.min() >= 0 and phase.max() <= 1.0 and abs(phase.mean().item() - 0.5) < 0.01


def test_gamma_keeps_the_variance_of_the_input() -> None:
    """White noise in, stationary state out: E|h|^2 = E|B x|^2, where without gamma it is larger (proposition 3)."""
    layer = LRU(64, 256, r_min=0.9, r_max=0.99)
    with torch.no_grad():
        driven = layer.B_re.square().sum(1) + layer.B_im.square().sum(1)
        _, state = layer(torch.randn(64, 1000, 64))
        ratio = state.h.abs().square().mean(0) / driven
        assert abs(ratio.mean().item() - 1) < 0.05
        layer.gamma_log.zero_()
        _, state = layer(torch.randn(64, 1000, 64))
        ratio = (state.h.abs().square().mean(0) / driven).mean().item()
    expected = math.log((1 - 0.9**2) / (1 - 0.99**2)) / (0.99**2 - 0.9**2)
    assert abs(ratio / expected - 1) < 0.15


def test_bfloat16_parameters_keep_their_imaginary_parts() -> None:
    layer = LRU(8, 8, r_min=0.9, r_max=0.99)
    x = torch.randn(2, 30, 8)
    low = LRU(8, 8).to(torch.bfloat16)
    low.load_state_dict(layer.state_dict())
    y, state = low(x.bfloat16())
    assert y.dtype == torch.bfloat16 and state.h.dtype == torch.complex64
    assert (y.float() - layer(x)[0]).abs().max() < 0.05 * layer(x)[0].abs().max()


def test_smallest_and_largest_radius_are_finite() -> None:
    for r_min, r_max in ((0.0, 1.0), (0.999999, 1.0)):
        layer = LRU(4, 1000, r_min=r_min, r_max=r_max)
        assert all(torch.isfinite(p).all() for p in layer.parameters())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="r_min and r_max must obey"):
        LRU(4, r_min=0.9, r_max=0.5)
    with pytest.raises(ValueError, match="max_phase must be positive, got 0"):
        LRU(4, max_phase=0)
    with pytest.raises(ValueError, match="lr_factor"):
        LRU(4, lr_factor=0)
    with pytest.raises(ValueError, match="d_state must be a positive integer, got 0"):
        LRU(4, 0)
