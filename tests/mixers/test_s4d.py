"""S4D: the published convolution kernel, its initial values, and steps that are not differences."""

import math

import pytest
import torch
from torch.nn.functional import gelu, glu

from seqmix import S4D
from seqmix.mixers._hold import zero_order_hold


def test_is_the_convolution_with_the_published_kernel():
    torch.manual_seed(0)
    layer, x = S4D(3, d_state=8, dtype=torch.float64), torch.randn(2, 9, 3, dtype=torch.float64)
    A = torch.complex(-layer.log_A_real.exp(), layer.A_imag)
    dt, C = layer.log_dt.exp()[:, None], torch.view_as_complex(layer.C)
    kernel = (
        2
        * torch.einsum("dn,dnl->dl", C * ((A * dt).exp() - 1) / A, (A * dt)[..., None].mul(torch.arange(9)).exp()).real
    )
    s = torch.stack([(kernel.flip(1)[:, 8 - t :] * x.mT[..., : t + 1]).sum(-1) for t in range(9)], 1) + layer.D * x
    torch.testing.assert_close(layer(x)[0], glu(layer.output_linear(gelu(s))), rtol=1e-9, atol=1e-12)


def test_starts_as_published():
    layer = S4D(64)
    assert layer.log_A_real.exp().allclose(torch.tensor(0.5))
    torch.testing.assert_close(layer.A_imag[5], math.pi * torch.arange(32), rtol=1e-6, atol=0)
    assert layer.log_dt.exp().min() >= 1e-3 and layer.log_dt.exp().max() <= 0.1
    assert layer.discretised()[0].abs().max() < 1 and layer.state_size() == 64 * 64


def test_short_steps_keep_their_digits():
    real, imaginary, dt = torch.tensor([-0.5]), torch.tensor([0.1]), torch.tensor([1e-4])
    _, found = zero_order_hold(real, imaginary, dt)
    _, truth = zero_order_hold(real.double(), imaginary.double(), dt.double())
    assert (found - truth).abs() / truth.abs() < 1e-6


@pytest.mark.parametrize(("arguments", "match"), [({"d_state": 3}, "even"), ({"dt_min": 1.0}, "dt_min <= dt_max")])
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        S4D(4, **arguments)
