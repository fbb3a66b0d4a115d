"""`Mamba`: the paper's equations, its initialisation, the names of published checkpoints and signed eigenvalues."""

import math

import pytest
import torch
from torch.nn.functional import conv1d, pad, silu, softplus

from seqmix.mixers import Mamba


@pytest.mark.parametrize("eigenvalues", ["positive", "signed"])
def test_equals_the_equations(eigenvalues: str) -> None:
    """Written again from the paper with torch's own convolution and a loop over tokens."""
    layer = Mamba(6, d_state=3, d_conv=4, dt_rank=2, eigenvalues=eigenvalues, dtype=torch.float64)
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    u, z = (x @ layer.in_proj.weight.T).split(12, dim=-1)
    u = silu(conv1d(pad(u.mT, (3, 0)), layer.conv1d.weight, layer.conv1d.bias, groups=12).mT)
    r, b, c = (u @ layer.x_proj.weight.T).split((2, 3, 3), dim=-1)
    dt = softplus(r @ layer.dt_proj.weight.T + layer.dt_proj.bias)
    s, expected = torch.zeros(2, 12, 3, dtype=torch.float64), []
    for t in range(20):
        decay = torch.exp(-dt[:, t, :, None] * layer.A_log.exp())
        decay = 2 * decay - 1 if eigenvalues == "signed" else decay
        s = decay * s + torch.einsum("bd,bn->bdn", dt[:, t] * u[:, t], b[:, t])
        y_t = torch.einsum("bdn,bn->bd", s, c[:, t]) + layer.D * u[:, t]
        expected.append((y_t * silu(z[:, t])) @ layer.out_proj.weight.T)
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.ssm, s, rtol=1e-10, atol=1e-12)


def test_names_and_shapes_of_published_checkpoints() -> None:
    """`mamba_ssm`'s own state dict for d_model = 64."""
    shapes = {name: tuple(p.shape) for name, p in Mamba(64).state_dict().items()}
    assert shapes == {
        "A_log": (128, 16),
        "D": (128,),
        "in_proj.weight": (256, 64),
        "conv1d.weight": (128, 1, 4),
        "conv1d.bias": (128,),
        "x_proj.weight": (4 + 32, 128),
        "dt_proj.weight": (128, 4),
        "dt_proj.bias": (128,),
        "out_proj.weight": (64, 128),
    }


def test_initialisation() -> None:
    layer = Mamba(1024, expand=4)
    assert layer.dt_rank == 64 and Mamba(17).dt_rank == 2
    torch.testing.assert_close(layer.A_log.exp(), torch.arange(1.0, 17).expand(4096, 16))
    assert torch.equal(layer.D, torch.ones(4096))
    assert layer.dt_proj.weight.abs().max() <= 64**-0.5
    dt = softplus(layer.dt_proj.bias)
    assert dt.min() > 0.99e-3 and dt.max() < 0.101
    # Log-uniform: the mean of the logarithm is the middle of the logarithms.
    assert abs(dt.log().mean().item() - (math.log(1e-3) + math.log(0.1)) / 2) < 0.1
    assert Mamba(8, dt_min=1e-6, dt_max=1e-5).dt_proj.bias.isfinite().all()


def test_eigenvalues_lie_where_they_should() -> None:
    x = 30 * torch.randn(2, 50, 16)
    for eigenvalues, low in (("positive", 0.0), ("signed", -1.0)):
        layer = Mamba(16, eigenvalues=eigenvalues)
        with torch.no_grad():
            layer.dt_proj.weight.mul_(20)
        values = layer.diagnostics(x)["eigenvalues"]
        assert values.shape == (2, 50, 32, 16)
        assert values.min() >= low and values.max() <= 1
        assert (values.min() < -0.5) == (eigenvalues == "signed")


def test_signed_eigenvalues_do_parity() -> None:
    """One channel, set by hand: a large step on token 1 gives decay -1, a small one on token 0 gives decay 1."""
    layer = Mamba(1, d_state=1, d_conv=1, expand=1, dt_rank=1, eigenvalues="signed", dtype=torch.float64)
    tokens = torch.randint(2, (4, 200))
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.in_proj.weight[0] = 1  # u = x, through silu
        layer.conv1d.weight[:] = 1
        layer.x_proj.weight[0] = 1  # r = u
        layer.dt_proj.weight[:] = 200
        layer.dt_proj.bias[:] = -60
    _, state = layer(tokens[..., None].double(), layer.init_state(4)._replace(ssm=torch.ones(4, 1, 1).double()))
    torch.testing.assert_close(state.ssm.flatten(), 1.0 - 2.0 * (tokens.sum(1) % 2).double())


def test_steps_are_formed_in_float32() -> None:
    """A decay of 0.9999 rounds to 1 in bf16; the layer in bf16 must still forget."""
    layer = Mamba(4, d_state=1, dt_min=1e-4, dt_max=1e-4).to(torch.bfloat16)
    state = layer.init_state(1)._replace(ssm=torch.ones(1, 8, 1))
    _, state = layer(torch.zeros(1, 10_000, 4, dtype=torch.bfloat16), state)
    assert state.ssm.dtype == torch.float32 and state.conv.dtype == torch.bfloat16
    torch.testing.assert_close(state.ssm, torch.full_like(state.ssm, math.exp(-1)), rtol=0.05, atol=0)


def test_bad_arguments() -> None:
    for kwargs, match in (
        ({"d_state": 0}, "d_state must be a positive integer"),
        ({"d_conv": 0}, "d_conv must be a positive integer"),
        ({"expand": 1.5}, "expand must be a positive integer"),
        ({"dt_rank": 0}, "dt_rank must be a positive integer"),
        ({"eigenvalues": "negative"}, "eigenvalues must be one of 'positive', 'signed'"),
        ({"dt_min": 0.2}, "0 < dt_min <= dt_max"),
    ):
        with pytest.raises(ValueError, match=match):
            Mamba(8, **kwargs)
