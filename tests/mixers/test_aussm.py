"""AUSSM: the equations as a loop, norms that are kept, and counting modulo n."""

import math

import pytest
import torch
from torch.nn.functional import silu, softplus

from seqmix import AUSSM


def test_is_the_recurrence_of_the_paper():
    torch.manual_seed(0)
    layer, x = AUSSM(4, 3, 2, dtype=torch.float64), torch.randn(9, 4, dtype=torch.float64)
    u, z = layer.in_proj(x).chunk(2, -1)
    s, h, rows = silu(u), torch.zeros(8, 3, dtype=torch.complex128), []
    B, C = (softplus(p[0]) * torch.exp(1j * p[1]) for p in (layer.B, layer.C))
    for t in range(9):
        theta = (layer.angle_proj.weight @ s[t] / math.sqrt(8) + layer.angle_proj.bias).view(8, 3)
        delta = softplus(layer.dt_up.weight @ layer.dt_down.weight @ s[t] + layer.dt_up.bias)
        h = torch.exp(1j * theta) * h + (delta * s[t])[:, None] * B
        rows.append(layer.out_proj(((C * h).sum(-1).real + layer.D * s[t]) * silu(z[t])))
    torch.testing.assert_close(layer(x[None])[0][0], torch.stack(rows), rtol=1e-9, atol=1e-11)


def test_counts_modulo_seven_and_keeps_its_norm():
    """A token turns by a seventh or not at all; nothing is written after the start."""
    layer, ones = AUSSM(2, 1), torch.randint(2, (5000,), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        layer.in_proj.weight.zero_()
        layer.in_proj.weight[:2] = torch.eye(2)
        layer.angle_proj.bias.zero_()
        layer.angle_proj.weight.copy_(torch.tensor([[2 * math.pi / 7 * 2**0.5, 0], [0, 0]]))
        layer.dt_up.bias.fill_(-200)
    root = 1.2784645427610738  # silu of it is one
    x = torch.stack((root * ones, torch.zeros(5000)), -1)[None]
    _, state = layer(x, AUSSM.State(torch.ones(1, 2, 1, dtype=torch.complex64)))
    turns = state.h[0, 0, 0].angle() / (2 * math.pi / 7)
    assert round(turns.item()) % 7 == int(ones.sum()) % 7 and abs(turns - turns.round()) < 0.02
    assert state.h[0, 0, 0].abs().item() == pytest.approx(1, abs=1e-3)


def test_bad_arguments():
    with pytest.raises(ValueError, match="dt_rank must be a positive integer"):
        AUSSM(4, dt_rank=0)
