"""`SelectiveRoPE`: every option is what it says, alike in a full pass, in chunks and token by token."""

import math

import pytest
import torch
from einops import rearrange
from torch.nn.functional import conv1d, pad, silu

from seqmix.mixers import SelectiveRoPE
from seqmix.mixers._make_position import make_position
from seqmix.mixers._positions import RoPE

D, H, K = 16, 2, 8

OPTIONS = {
    "default": {},
    "full rank": {"rank": "full"},
    "rank 3": {"rank": 3},
    "no convolution": {"d_conv": 1},
    "difference": {"d_conv": "difference"},
    "silu": {"activation": "silu"},
    "no bias": {"bias": False},
    "gate for each head": {"gate": "standard"},
    "gate of low rank": {"gate": "low-rank", "gate_rank": 3},
    "gate for each angle": {"gate": "gla"},
    "gate by x": {"gate": "standard", "gate_input": "x"},
    "ladder": {"theta": 5e5},
    "rfa ladder": {"temperature": "rfa", "theta": 0.99, "temperature_max": 0.25},
    "colder": {"temperature_max": 0.5},
    "all": {"rank": "full", "activation": "silu", "gate": "gla", "temperature": "rfa"},
}


def normalize(x: torch.Tensor) -> torch.Tensor:
    """Of length one but for flash-linear-attention's epsilon."""
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def build(dtype=torch.float32, **options):
    torch.manual_seed(0)
    return SelectiveRoPE(D, H, K, **options, dtype=dtype)


def inputs(length, dtype=torch.float32):
    g = torch.Generator().manual_seed(1)
    return tuple(torch.randn(2, length, *shape, generator=g).to(dtype) for shape in ((D,), (H, K), (H, K)))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=list(OPTIONS))
def test_chunks_and_steps_equal_the_full_pass(options):
    rope, (x, q, k) = build(**options), inputs(120)
    (full_q, full_k), end = rope(x, q, k)
    for sizes in ([50, 1, 2, 67], [1] * 120):
        state, parts = None, []
        for part in zip(*(t.split(sizes, 1) for t in (x, q, k)), strict=True):
            pair, state = rope(*part, state)
            parts.append(pair)
        for found, expected in zip(zip(*parts, strict=True), (full_q, full_k), strict=True):
            assert (torch.cat(found, 1) - expected).abs().max() < 1e-5
        assert (state.angle - end.angle).abs().max() < 1e-5
        torch.testing.assert_close(state.window, end.window)


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "default"])
def test_every_option_changes_training_and_decode(name):
    (x, q, k), results = inputs(6), []
    for options in ({}, OPTIONS[name]):
        rope = build(**options)
        (full, _), _ = rope(x, q, k)
        state, steps = None, []
        for t in range(6):
            (step, _), state = rope(x[:, t : t + 1], q[:, t : t + 1], k[:, t : t + 1], state)
            steps.append(step)
        results.append((full, torch.cat(steps, 1)))
    for a, b in zip(*results, strict=True):
        assert (a - b).abs().amax(dim=(0, 2, 3)).min() > 1e-3, "some token is turned as without the option"


@pytest.mark.parametrize("gate_input", ["unit", "x"])
@pytest.mark.parametrize("gate", [None, "standard", "low-rank", "gla"])
@pytest.mark.parametrize("rank", ["full", 5])
def test_increments_equal_the_definition(rank, gate, gate_input):
    """Temperature, bias and gate multiply what is summed, not the sum."""
    rope = build(torch.float64, rank=rank, gate=gate, gate_input=gate_input, activation="silu", theta=100.0)
    x, _, _ = inputs(9, torch.float64)
    units = normalize(rearrange(x, "b t (h d) -> b t h d", h=H))
    if rank == "full":
        weight = normalize(rope.weight) * rope.scale[:, None, None]
        phi = torch.stack([units[:, :, h] @ weight[h].T for h in range(H)], dim=2).flatten(2)
    else:
        phi = units.flatten(2) @ rope.down_proj.weight.T @ rope.up_proj.weight.T
    phi = silu(conv1d(pad(phi.mT, (3, 0)), rope.conv_weight[:, None], groups=H * K // 2).mT)
    omega = rearrange(phi, "b t (h k) -> b t h k", h=H) + rope.bias.exp()
    if gate is not None:
        seen = x if gate_input == "x" else units.flatten(2)
        inner = seen if gate == "standard" else seen @ rope.gate_down.weight.T
        z = (inner @ rope.gate_proj.weight.T + rope.gate_proj.bias).sigmoid()
        assert z.shape[-1] == (H * K // 2 if gate == "gla" else H)
        omega = omega * rearrange(z, "b t (h k) -> b t h k", h=H)
    omega = omega * 100.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    found, _ = rope.increments(x, rope.init_state(2, None, torch.float64).window, None)
    torch.testing.assert_close(found, omega, rtol=1e-10, atol=1e-12)


def test_the_difference_telescopes():
    """Without bias and gate the angle is that of the token, in a full pass, in steps and across an empty sequence."""
    rope, (x, q, k) = build(torch.float64, d_conv="difference", bias=False), inputs(9, torch.float64)
    _, end = rope(x, q, k)
    phi = (
        normalize(rearrange(x, "b t (h d) -> b t h d", h=H)).flatten(2)
        @ rope.down_proj.weight.T
        @ rope.up_proj.weight.T
    )
    torch.testing.assert_close(end.angle, rearrange(phi[:, -1], "b (h k) -> b h k", h=H))
    torch.testing.assert_close(end.window, phi[:, -1:])
    offsets = torch.tensor([0, 4, 4, 9], dtype=torch.int32)
    _, ends = rope(x[:1], q[:1], k[:1], cu_seqlens=offsets)
    torch.testing.assert_close(ends.angle[[0, 2]], rearrange(phi[0, [3, 8]], "s (h k) -> s h k", h=H))
    assert "difference" not in rope.state_dict()


def test_ladders():
    assert torch.equal(build().ladder(None, torch.float32), torch.ones(4))
    expected = 0.5 * 5e5 ** -torch.tensor([0, 0.25, 0.5, 0.75])
    torch.testing.assert_close(build(theta=5e5, temperature_max=0.5).ladder(None, torch.float32), expected)
    w = torch.linspace(0, 0.9 * math.pi, 4, dtype=torch.float64)
    rfa = ((1 - w.cos()) / (1 + w.cos())).sqrt()
    found = build(temperature="rfa", theta=0.9, temperature_max=0.25).ladder(None, torch.float64)
    torch.testing.assert_close(found, 0.25 * rfa / rfa.max())


def test_starts_as_rope():
    """With the projection at zero every token turns by the ladder: exp(0) = 1."""
    rope, (x, q, k) = build(theta=100.0), inputs(20)
    with torch.no_grad():
        rope.up_proj.weight.zero_()
    (turned, _), _ = rope(x, q, k)
    (expected,), _, _ = RoPE(H, K, base=100.0).rotate(x, [q], tuple(rope.init_state(2, None, x.dtype)), None)
    torch.testing.assert_close(turned, expected)


def test_gradients_reach_every_parameter():
    rope, (x, q, k) = build(rank="full", gate="gla"), inputs(9)
    (q, k), state = rope(x, q, k)
    (q.square() @ torch.arange(8.0)).sum().add(k.sum()).add(state.angle.sum()).backward()
    for name, parameter in rope.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def test_increments_stay_float32_in_bfloat16():
    rope, (x, q, k) = build().bfloat16(), inputs(200, torch.bfloat16)
    (turned, _), state = rope(x, q, k)
    assert turned.dtype == torch.bfloat16 and state.angle.dtype == state.window.dtype == torch.float32
    reference = build().bfloat16().double()
    _, expected = reference(*(t.double() for t in (x, q, k)))
    assert (state.angle - expected.angle).abs().max() < 1e-3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"rank": 17}, "rank must be at most d_model = 16, got 17"),
        ({"gate": "gla", "gate_rank": 17}, "gate_rank must be at most d_model = 16, got 17"),
        ({"gate_input": "q"}, "gate_input must be one of 'unit', 'x', got 'q'"),
        ({"d_conv": "diff"}, "d_conv must be a positive integer, got 'diff'"),
        ({"gate": "soft"}, "gate must be one of None, 'standard', 'low-rank', 'gla', got 'soft'"),
        ({"activation": "relu"}, "activation must be one of None, 'silu'"),
        ({"temperature": "warm"}, "temperature must be one of 'rope', 'rfa'"),
        ({"theta": 0.5}, "theta must be at least 1"),
        ({"temperature": "rfa", "theta": 1.0}, "theta must be between 0 and 1"),
        ({"temperature_max": 0.0}, "temperature_max must be positive"),
        ({"d_conv": 0}, "d_conv must be a positive integer"),
    ],
)
def test_bad_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


def test_bad_sizes_and_names():
    with pytest.raises(ValueError, match="n_heads must divide d_model = 16, got 3"):
        SelectiveRoPE(16, 3, 4)
    with pytest.raises(ValueError, match="d_head must be even"):
        SelectiveRoPE(16, 2, 5)
    with pytest.raises(ValueError, match="position must be one of None, 'rope', 'selective-rope', got 'alibi'"):
        make_position("GatedLinearAttention", "alibi", 16, 2, 4, None)
    with pytest.raises(ValueError, match="rope_options for position='rope': 'theta'"):
        make_position("GatedLinearAttention", "rope", 16, 2, 4, {"theta": 3})
    with pytest.raises(ValueError, match="even width of keys in each head, got 5"):
        make_position("GatedLinearAttention", "rope", 16, 2, 5, None)
