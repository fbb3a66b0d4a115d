"""`GatedLinearAttention`: the equations, what ties commute, and a hand-made parity."""

import math

import pytest
import torch
from einops import rearrange
from torch.nn.functional import conv1d, logsigmoid, pad, silu

from seqmix.mixers import GatedLinearAttention


def build(**options):
    torch.manual_seed(0)
    return GatedLinearAttention(8, 2, dtype=torch.float64, **options)


def tokens(length, batch=2):
    return torch.randn(batch, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def turn(x, angle):
    first, second = x.chunk(2, -1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), dim=-1)


@pytest.mark.parametrize("d_conv", [None, 3])
@pytest.mark.parametrize("position", [None, "rope", "selective-rope"])
def test_equals_the_equations(position, d_conv):
    """Written again with a loop; the rotation acts on the state, as in the paper's first form, not on q and k."""
    layer, x = build(position=position, d_conv=d_conv, expand_k=1.0), tokens(20)
    qkv, z = (x @ layer.in_proj.weight.T).split((24, 8), dim=-1)
    if d_conv:
        qkv = silu(conv1d(pad(qkv.mT, (d_conv - 1, 0)), layer.conv_weight[:, None], groups=24).mT)
    q, k, v = rearrange(qkv, "b t (qkv h k) -> qkv b t h k", qkv=3, h=2)
    g = logsigmoid(x @ layer.decay_down.weight.T @ layer.decay_up.weight.T + layer.decay_up.bias) / 16
    g = rearrange(g, "b t (h k) -> b t h k", h=2)
    g = g if position is None else torch.cat((g, g), -1)
    omega = torch.zeros(2, 20, 2, 2, dtype=torch.float64)
    if position == "rope":
        omega = torch.tensor([1.0, 0.01], dtype=torch.float64).expand_as(omega)
    elif position is not None:
        omega, _ = layer.position.increments(x, layer.init_state(2).window, None)
    S, expected = torch.zeros(2, 2, 4, 4, dtype=torch.float64), []
    for t in range(20):
        # q R_t ... R_{j+1} k_j: every step turns back what is stored.
        S = turn(S.mT, -omega[:, t, :, None].expand(-1, -1, 4, -1)).mT
        S = g[:, t, :, :, None].exp() * S + k[:, t, :, :, None] * v[:, t, :, None]
        o = torch.einsum("bhkv,bhk->bhv", S, q[:, t]) / 2
        o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm_weight
        expected.append((o.flatten(1) * silu(z[:, t])) @ layer.out_proj.weight.T)
    torch.testing.assert_close(layer(x)[0], torch.stack(expected, 1), rtol=1e-9, atol=1e-11)


def test_decays_are_tied_with_positions_by_default():
    x = tokens(5)
    for position, tie, tied in ((None, None, False), ("rope", None, True), ("rope", False, False), (None, True, True)):
        layer = build(position=position, tie_decay=tie)
        g = layer.log_decay(x)
        assert g.shape == (2, 5, 2, 2) and g.max() < 0
        assert torch.equal(g[..., :1], g[..., 1:]) == tied == layer.tie_decay


def test_parity_by_hand():
    """Token 1 turns every pair by half a turn, token 0 by none: the sign of what is read is the parity."""
    layer = GatedLinearAttention(
        4, 1, "selective-rope", expand_k=0.5, rope_options={"d_conv": 1, "bias": False, "rank": 1}, dtype=torch.float64
    )
    bits = torch.randint(2, (3, 500))
    x = torch.zeros(3, 501, 4, dtype=torch.float64)
    x[:, 0, 0] = 1  # BOS writes
    x[:, 1:, 1] = (bits == 0).double()
    x[:, 1:, 2] = (bits == 1).double()
    x[:, 1:, 3] = 1
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.norm_weight.fill_(1)
        layer.decay_up.bias.fill_(50)
        layer.in_proj.weight[0, 3] = 1  # q on bits
        layer.in_proj.weight[2, 0] = 1  # k on BOS
        layer.in_proj.weight[4, 0] = 1  # v on BOS
        layer.in_proj.weight[8, 3] = 1  # z
        layer.out_proj.weight[0, 0] = 1
        # A bit's embedding has length sqrt(2), and the projection sees directions.
        layer.position.down_proj.weight[0, 2] = 1
        layer.position.up_proj.weight[0] = math.pi * math.sqrt(2)
    y, _ = layer(x)
    assert torch.equal(y[:, 1:, 0] < 0, bits.cumsum(1) % 2 == 1)


def test_eigenvalues():
    x = tokens(5)
    plain = build().diagnostics(x)["eigenvalues"]
    assert plain.shape == (2, 5, 2, 2) and plain.min() > 0 and plain.max() < 1
    found = build(position="selective-rope").diagnostics(x)
    torch.testing.assert_close(found["eigenvalues"].angle()[..., :1], found["increments"])
    assert "eigenvalues" not in build(position="rope", tie_decay=False).diagnostics(x)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, "n_heads must divide d_model = 16"),
        ({"n_heads": 0}, "n_heads must be a positive integer"),
        ({"expand_k": 0.3}, "expand_k must make a whole number of channels"),
        ({"n_heads": 8, "position": "rope"}, "position='rope' needs an even width"),
        ({"n_heads": 8, "tie_decay": True}, "tie_decay needs an even width"),
        ({"position": "alibi"}, "position must be one of None, 'rope', 'selective-rope'"),
        ({"decay_rank": 17}, "decay_rank must be at most d_model = 16"),
        ({"decay_temperature": 0}, "decay_temperature must be positive"),
        ({"d_conv": 0}, "d_conv must be a positive integer"),
        ({"position": "selective-rope", "rope_options": {"rank": 99}}, "rank must be at most d_model = 16"),
        ({"position": "selective-rope", "rope_options": {"gates": 1}}, "did you mean 'gate'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        GatedLinearAttention(16, **arguments)
