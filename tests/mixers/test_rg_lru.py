"""`RGLRU`: the equations, the initial radii, and a finite gradient where a = 1."""

import pytest
import torch
from torch.nn.functional import conv1d, gelu, pad, softplus

from seqmix.mixers import RGLRU


def test_equals_the_equations():
    layer = RGLRU(6, 8, n_heads=2, d_conv=3, dtype=torch.float64)
    with torch.no_grad():
        layer.gate_bias.normal_()
        layer.conv_weight.mul_(10)
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    u, z = (x @ layer.in_proj.weight.T + layer.in_proj.bias).chunk(2, -1)
    u = conv1d(pad(u.mT, (2, 0)), layer.conv_weight[:, None], layer.conv_bias, groups=8).mT
    r, i = ((u @ torch.block_diag(*w) + b).sigmoid() for w, b in zip(layer.gate_weight, layer.gate_bias, strict=True))
    a = torch.exp(-8 * r * softplus(layer.Lambda))
    h, states = torch.zeros(2, 8, dtype=torch.float64), []
    for t in range(20):
        h = a[:, t] * h + (1 - a[:, t] ** 2).sqrt() * i[:, t] * u[:, t]
        states.append(h)
    expected = (gelu(z) * torch.stack(states, 1)) @ layer.out_proj.weight.T + layer.out_proj.bias
    y, state = layer(x)
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state.h, h, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(layer.diagnostics(x)["eigenvalues"], a)


def test_initial_radii_are_uniform_in_area():
    radius = torch.exp(-softplus(RGLRU(4, 20_000, n_heads=20_000).Lambda.double()))
    assert radius.min() >= 0.9 - 1e-6 and radius.max() <= 0.999 + 1e-6
    assert abs(radius.square().mean() - (0.81 + 0.998) / 2) < 2e-3


def test_gradients_stay_finite_at_a_decay_of_one():
    layer = RGLRU(4)
    with torch.no_grad():
        layer.Lambda.fill_(-200)  # softplus underflows: a = 1 exactly
    y, _ = layer(torch.randn(2, 5, 4))
    y.sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, "n_heads must divide d_state = 16"),
        ({"d_conv": 0}, "d_conv must be a positive integer"),
        ({"r_min": 0.9, "r_max": 0.5}, "0 < r_min < r_max < 1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RGLRU(16, **arguments)
