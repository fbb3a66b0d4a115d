"""`Mamba2` and `Mamba3`: their equations with a loop over tokens, names of checkpoints, and limits that are known."""

import math

import pytest
import torch
from einops import rearrange, repeat
from torch.nn.functional import conv1d, pad, silu, softplus

from seqmix.mixers import Mamba2, Mamba3


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def turn(x, angle):
    first, second = x.chunk(2, -1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), dim=-1)


def test_mamba2_equals_the_equations():
    layer = Mamba2(6, d_state=3, expand=2, n_heads=4, n_groups=2, dtype=torch.float64)
    with torch.no_grad():
        layer.norm.weight.normal_()
        layer.D[:2] = 9.0  # groups of different size
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    z, ubc, r = (x @ layer.in_proj.weight.T).split((12, 24, 4), dim=-1)
    ubc = silu(conv1d(pad(ubc.mT, (3, 0)), layer.conv1d.weight, layer.conv1d.bias, groups=24).mT)
    u, B, C = ubc.split((12, 6, 6), dim=-1)
    u = rearrange(u, "b t (h p) -> b t h p", h=4)
    B, C = (repeat(t, "b t (g n) -> b t (g h) n", g=2, h=2) for t in (B, C))
    dt = softplus(r + layer.dt_bias)
    S, expected = torch.zeros(2, 4, 3, 3, dtype=torch.float64), []
    for t in range(20):
        decay = torch.exp(-dt[:, t] * layer.A_log.exp())[..., None, None]
        S = decay * S + B[:, t, :, :, None] * (dt[:, t, :, None] * u[:, t])[:, :, None]
        o = (S * C[:, t, :, :, None]).sum(-2) + layer.D[:, None] * u[:, t]
        # Each group of two heads by itself.
        groups = (o.flatten(1) * silu(z[:, t])).chunk(2, -1)
        normed = [rms(part, w) for part, w in zip(groups, layer.norm.weight.chunk(2), strict=True)]
        expected.append(torch.cat(normed, -1) @ layer.out_proj.weight.T)
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.ssm, S, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(layer.diagnostics(x)["eigenvalues"], torch.exp(-dt * layer.A_log.exp()))


def test_names_and_shapes_of_published_checkpoints():
    """`mamba_ssm`'s own state dict for d_model = 64."""
    shapes = {name: tuple(p.shape) for name, p in Mamba2(64).state_dict().items()}
    assert shapes == {
        "dt_bias": (2,),
        "A_log": (2,),
        "D": (2,),
        "in_proj.weight": (2 * 128 + 2 * 128 + 2, 64),
        "conv1d.weight": (128 + 256, 1, 4),
        "conv1d.bias": (128 + 256,),
        "norm.weight": (128,),
        "out_proj.weight": (64, 128),
    }


def test_mamba3_equals_the_equations():
    layer = Mamba3(6, d_state=4, n_heads=3, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    x = 3 * torch.randn(2, 20, 6, dtype=torch.float64)
    z, u, B, C, r, a, trapezoid, w = (x @ layer.in_proj.weight.T).split((12, 12, 4, 4, 3, 3, 3, 2), dim=-1)
    u = rearrange(u, "b t (h p) -> b t h p", h=3)
    dt = softplus(r + layer.dt_bias)
    A = -torch.where(a >= 0, 1 + a, 1 / (1 - a))
    angle = (math.pi * w.tanh()[:, :, None] * dt[..., None]).cumsum(1)
    k = turn(rms(B, layer.B_weight)[:, :, None] + layer.B_bias, angle)
    q = turn(rms(C, layer.C_weight)[:, :, None] + layer.C_bias, angle)
    alpha, share = torch.exp(dt * A), trapezoid.sigmoid()
    beta, gamma = (1 - share) * dt * alpha, share * dt
    S, before, expected = torch.zeros(2, 3, 4, 4, dtype=torch.float64), None, []
    for t in range(20):
        write = k[:, t, :, :, None] * u[:, t, :, None]
        S = alpha[:, t, :, None, None] * S + gamma[:, t, :, None, None] * write
        if before is not None:
            S = S + beta[:, t, :, None, None] * before
        before = write
        o = (S * q[:, t, :, :, None]).sum(-2) + layer.D[:, None] * u[:, t]
        expected.append((o.flatten(1) * silu(z[:, t])) @ layer.out_proj.weight.T)
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.ssm, S, rtol=1e-9, atol=1e-11)
    values = layer.diagnostics(x)["eigenvalues"]
    torch.testing.assert_close(values.abs(), alpha[..., None].expand_as(values))


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda last: last.expand(-1, 2, -1), r"state.last must have shape \(1, 1, 60\)"),
        (lambda last: last[..., :-1], r"state.last must have shape \(1, 1, 60\)"),
        (lambda last: last[0], "state.last must be a tensor of shape"),
        (lambda last: last.int(), "state.last must be real floating"),
        (lambda last: last.double(), "double precision goes with double precision only"),
    ],
)
def test_mamba3_says_what_a_last_token_is(change, message, packed):
    layer = Mamba3(6, d_state=16, n_heads=3)
    state = layer.init_state(1)
    with pytest.raises(ValueError, match=message):
        layer(
            torch.randn(1, 1, 6),
            state._replace(last=change(state.last)),
            cu_seqlens=torch.tensor([0, 1], dtype=torch.int32) if packed else None,
        )


def test_mamba3_takes_a_last_token_of_half_precision_packed_or_not():
    layer, x = Mamba3(6, d_state=4, n_heads=3), torch.randn(1, 7, 6)
    _, state = layer(torch.randn(1, 3, 6))
    state = state._replace(last=state.last.half())
    whole = layer(x, state)
    packed = layer(x, state, cu_seqlens=torch.tensor([0, 7], dtype=torch.int32))
    torch.testing.assert_close(whole, packed)


def test_mamba3_gradients_stay_finite_for_any_rate():
    layer = Mamba3(4, d_state=2, n_heads=1)
    x = torch.randn(2, 9, 4) * 1e4
    layer(x)[0].mean().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


@pytest.mark.parametrize(
    ("build", "arguments", "message"),
    [
        (Mamba2, {"n_heads": 3}, "n_heads must divide d_inner = 32, got 3"),
        (Mamba2, {"n_heads": 4, "n_groups": 3}, "n_groups must divide n_heads = 4, got 3"),
        (Mamba2, {"d_state": 0}, "d_state must be a positive integer"),
        (Mamba2, {"A_min": 2.0, "A_max": 1.0}, "A_min and A_max must obey 0 < min <= max"),
        (Mamba3, {"n_heads": 5}, "n_heads must divide d_inner = 32, got 5"),
        (Mamba3, {"d_state": 7}, "d_state must be even"),
        (Mamba3, {"dt_min": 0.0}, "0 < dt_min <= dt_max"),
    ],
)
def test_bad_arguments(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        build(16, **arguments)
