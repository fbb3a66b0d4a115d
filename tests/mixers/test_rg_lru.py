"""`RGLRU`: the equations, the gain at a first token, the initial radii, and gradients where a = 1."""

import math

import pytest
import torch
from torch.nn.functional import conv1d, gelu, pad, softplus

from seqmix.mixers import RGLRU
from seqmix.mixers.rg_lru import _root


@pytest.mark.parametrize("unit_start", [True, False])
@pytest.mark.parametrize("min_gain", [0.0, 0.8])
def test_equals_the_equations(unit_start, min_gain):
    """recurrentgemma's RGLRU: multiplier 1 where a sequence is reset, sqrt(1 - a^2) elsewhere."""
    layer = RGLRU(6, 8, n_heads=2, d_conv=3, unit_start=unit_start, min_gain=min_gain, dtype=torch.float64)
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
        multiplier = (1 - a[:, t] ** 2).sqrt().clamp_min(min_gain)
        multiplier = torch.ones_like(multiplier) if unit_start and t == 0 else multiplier
        h = a[:, t] * h + multiplier * i[:, t] * u[:, t]
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


def test_only_the_first_token_of_each_sequence_is_written_whole():
    """Packed, with an empty sequence between, and one that goes on from a state."""
    layer = RGLRU(4, dtype=torch.float64)
    x, offsets = torch.randn(1, 9, 4, dtype=torch.float64), torch.tensor([0, 3, 3, 8, 9], dtype=torch.int32)
    state = layer.init_state(4)._replace(length=torch.tensor([0, 0, 5, 0]))
    y, after = layer(x, state, cu_seqlens=offsets)
    same = RGLRU(4, unit_start=False, dtype=torch.float64)
    same.load_state_dict(layer.state_dict())
    changed = (y - same(x, state, cu_seqlens=offsets)[0]).abs().amax(-1)[0] > 1e-9
    assert changed.tolist() == [True] * 3 + [False] * 5 + [True]
    assert after.length.tolist() == [3, 0, 10, 1]


def test_a_closed_gate_writes_nothing_and_learns():
    """With a = 1 the published gain is 0 with a derivative of 1,000; a least gain is that, without a derivative."""
    for min_gain, gain in ((0.0, 0.0), (5e-4, 5e-4)):
        layer = RGLRU(4, min_gain=min_gain, dtype=torch.float64)
        with torch.no_grad():
            layer.Lambda.fill_(-800)  # softplus underflows: a = 1 exactly
            layer.gate_bias[1] = 50  # i = 1
        u = torch.randn(2, 5, 4, dtype=torch.float64)
        a, found = layer.coefficients(u)
        assert (a == 1).all()
        torch.testing.assert_close(found[:, 1:], torch.full_like(found[:, 1:], gain), rtol=0, atol=1e-12)
        y, _ = layer(u)
        y.sum().backward()
        assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize("x", [0.0, 1e-9, 2.4e-7, 2.6e-7, 0.3])
def test_the_derivative_of_the_root_is_clipped_as_published(x):
    """The value is the root; the derivative 1 / sqrt(max(4 x, 1e-6))."""
    value = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    root = _root(value)
    (slope,) = torch.autograd.grad(root, value)
    assert root.item() == pytest.approx(math.sqrt(x), abs=1e-12)
    assert slope.item() == pytest.approx(1 / math.sqrt(max(4 * x, 1e-6)), rel=1e-9)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, "n_heads must divide d_state = 16"),
        ({"d_conv": 0}, "d_conv must be a positive integer"),
        ({"r_min": 0.9, "r_max": 0.5}, "0 < r_min < r_max < 1"),
        ({"min_gain": 1}, r"min_gain must be in \[0, 1\), got 1"),
        ({"unit_start": "yes"}, "unit_start must be one of True, False"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RGLRU(16, **arguments)
