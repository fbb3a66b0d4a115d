"""`rope_options: {preset: released}` in a layer of GLA: the released code's formulas as loops, in all its configs."""

import math

import pytest
import torch
from einops import rearrange
from torch.nn.functional import logsigmoid, pad, silu

from seqmix.mixers import GatedLinearAttention

D, H, T = 32, 2, 12
RFA = {"temperature": "rfa", "theta": 0.9999, "temperature_max": 0.25}
# Of the released configs for MAD, language, copying and state tracking; then what differs between them, one by one.
CONFIGS = {
    "mad": {},
    "language": {"rank": "full", "gate": "standard", "activation": "silu"},
    "copying": {"d_conv": "difference", "rank": 16, "gate": "standard", "bias": True} | RFA,
    "state tracking": {"rank": 16, "bias": True, "theta": 1.0},
    "gate of low rank": {"gate": "low-rank"},
    "gate for each angle": {"gate": "gla", "gate_rank": 3},
}


def released(layer, x, rank=32, d_conv=4, activation=None, gate=None, bias=False, **temperature):
    """`SelectiveRoPE.forward` and `GatedLinearAttention.forward` of the release with this layer's numbers."""
    rope, (batch, length) = layer.position, x.shape[:2]
    d_key, pe_dim = layer.d_key, layer.d_key // 2
    heads = x.view(batch, length, H, D // H)
    hidden = heads / (heads.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    flat = hidden.flatten(2)
    if rank == "full":
        weight = rope.weight.mT / rope.weight.mT.norm(dim=-2, keepdim=True) * rope.scale.view(-1, 1, 1)
        phi = torch.einsum("btni,nio->btno", hidden, weight).flatten(2)
    else:
        assert rope.down_proj.out_features == rank
        phi = flat @ rope.down_proj.weight.T @ rope.up_proj.weight.T
    before = pad(phi, (0, 0, 3, 0))
    if d_conv == "difference":
        phi = phi - before[:, 2 : 2 + length]
    else:
        phi = sum(before[:, i : i + length] * rope.conv_weight[:, i] for i in range(4))
        phi = silu(phi) if activation == "silu" else phi
    phi = phi.view(batch, length, H, pe_dim)
    phi = phi + rope.bias.exp() if bias else phi
    if gate is not None:
        seen = flat if gate == "standard" else flat @ rope.gate_down.weight.T
        phase = (seen @ rope.gate_proj.weight.T + rope.gate_proj.bias).sigmoid()
        phi = phi * phase.view(batch, length, H, pe_dim if gate == "gla" else 1)
    theta, top = temperature.get("theta", 5e5), temperature.get("temperature_max", 1.0)
    if temperature.get("temperature") == "rfa":
        w = torch.linspace(0.0, theta * math.pi, pe_dim, dtype=x.dtype)
        ladder = ((1 - w.cos()) / (1 + w.cos())).sqrt()
        ladder = top * ladder / ladder.max()
    else:
        ladder = top / theta ** (torch.arange(0, d_key, 2, dtype=x.dtype) / d_key)
    angle = ladder * phi.cumsum(1)

    keys, values = H * d_key, H * layer.d_value
    q, k, v, z = (x @ layer.in_proj.weight.T).split((keys, keys, values, values), -1)
    q, k, v = (rearrange(t, "b t (h k) -> b t h k", h=H) for t in (q, k, v))
    q, k = (
        torch.cat(
            (t[..., :pe_dim] * angle.cos() - t[..., pe_dim:] * angle.sin(),
             t[..., :pe_dim] * angle.sin() + t[..., pe_dim:] * angle.cos()), -1
        )
        for t in (q, k)
    )  # fmt: skip
    gk = logsigmoid(x @ layer.decay_down.weight.T @ layer.decay_up.weight.T + layer.decay_up.bias) / 16
    gk = gk.view(batch, length, H, d_key)  # one for each key channel: not tied
    S, outputs = x.new_zeros(batch, H, d_key, layer.d_value), []
    for t in range(length):
        S = S * gk[:, t].exp().unsqueeze(-1) + k[:, t].unsqueeze(-1) * v[:, t].unsqueeze(-2)
        o = (S * q[:, t].unsqueeze(-1)).sum(-2) * d_key**-0.5
        o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm_weight
        outputs.append((o.flatten(1) * silu(z[:, t])) @ layer.out_proj.weight.T)
    return torch.stack(outputs, 1)


def build(options):
    torch.manual_seed(0)
    rope_options = {"preset": "released", **options}
    layer = GatedLinearAttention(D, H, "selective-rope", rope_options=rope_options, dtype=torch.float64)
    with torch.no_grad():
        for p in layer.parameters():
            p.add_(torch.randn_like(p), alpha=0.3)
    return layer


@pytest.mark.parametrize("config", CONFIGS)
def test_equals_the_released_code(config):
    options, layer = CONFIGS[config], build(CONFIGS[config])
    x = torch.randn(2, T, D, dtype=torch.float64)
    expected = released(layer, x, **options)
    # The release normalises weights without an epsilon.
    near = {"rtol": 1e-5, "atol": 1e-6} if options.get("rank") == "full" else {"rtol": 1e-9, "atol": 1e-11}
    torch.testing.assert_close(layer(x)[0], expected, **near)
    state, steps = layer.init_state(2), []
    for token in x.unbind(1):
        y, state = layer.step(token, state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), expected, **near)


def test_what_the_preset_says_and_what_is_said_beside_it():
    layer = build({})
    rope = layer.position
    assert not layer.tie_decay and rope.bias is None and rope.gate is None and rope.gate_input == "unit"
    assert (rope.rank, rope.d_conv, rope.theta, rope.temperature_max) == (32, 4, 5e5, 1.0)
    assert build({"theta": 2.0}).position.theta == 2.0
    assert GatedLinearAttention(D, H, "selective-rope", True, rope_options={"preset": "released"}).tie_decay
    assert GatedLinearAttention(D, H, "selective-rope", rope_options={"preset": None}).tie_decay


@pytest.mark.parametrize(
    ("position", "options", "message"),
    [
        ("selective-rope", {"preset": "paper"}, "rope_options' preset must be one of 'released', got 'paper'"),
        ("selective-rope", {"preset": "released", "thta": 2}, "did you mean 'theta'"),
        ("rope", {"preset": "released"}, "rope_options for position='rope': 'preset'"),
    ],
)
def test_bad_presets(position, options, message):
    with pytest.raises(ValueError, match=message):
        GatedLinearAttention(D, H, position, rope_options=options)
