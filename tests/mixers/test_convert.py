"""Published layouts: small random weights in, and what a loop over tokens says they should give out."""

import pytest
import torch
from einops import rearrange, repeat
from torch.nn.functional import conv1d, logsigmoid, pad, silu, softplus

from seqmix.mixers import (
    LSTM,
    SLSTM,
    DeltaNet,
    DeltaProduct,
    GatedDeltaNet,
    GatedLinearAttention,
    Mamba,
    Mamba2,
    MinGRU,
)
from seqmix.mixers.convert import load_published

D, T = 8, 12


def normalize(x: torch.Tensor) -> torch.Tensor:
    """Of length one but for flash-linear-attention's epsilon."""
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def weights(**shapes):
    g = torch.Generator().manual_seed(0)
    return {
        name.replace("__", "."): torch.randn(shape, generator=g, dtype=torch.float64) / shape[-1] ** 0.5
        for name, shape in shapes.items()
    }


def tokens():
    return torch.randn(2, T, D, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def shift(x, weight, bias=None):
    """The published convolutions: depthwise, causal, silu."""
    return silu(conv1d(pad(x.mT, (weight.shape[-1] - 1, 0)), weight, bias, groups=len(weight)).mT)


def rms(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def check(layer, published, expected):
    prefixed = {f"model.layers.3.mixer.{n}": t for n, t in published.items()} | {"model.norm.weight": torch.ones(D)}
    assert load_published(layer, prefixed, prefix="model.layers.3.mixer.") is layer
    torch.testing.assert_close(layer(tokens())[0], expected, rtol=1e-9, atol=1e-11)
    state, steps = layer.init_state(2), []
    for x in tokens().unbind(1):
        y, state = layer.step(x, state)
        steps.append(y)
    torch.testing.assert_close(torch.stack(steps, 1), expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("conv", [False, True])
@pytest.mark.parametrize("norm", ["g_norm_swish_gate__weight", "g_norm__weight"])
def test_gla(conv, norm):
    shapes = {"q_proj__weight": (4, D), "k_proj__weight": (4, D), "v_proj__weight": (D, D), "g_proj__weight": (D, D)}
    shapes |= {"gk_proj__0__weight": (6, D), "gk_proj__1__weight": (4, 6), "gk_proj__1__bias": (4,)}
    shapes |= {norm: (4,), "o_proj__weight": (D, D)}
    if conv:
        shapes |= {"q_conv1d__weight": (4, 1, 4), "k_conv1d__weight": (4, 1, 4), "v_conv1d__weight": (D, 1, 4)}
    w, x = weights(**shapes), tokens()
    q, k, v = (x @ w[f"{name}_proj.weight"].T for name in "qkv")
    if conv:
        q, k, v = (shift(t, w[f"{name}_conv1d.weight"]) for t, name in ((q, "q"), (k, "k"), (v, "v")))
    g = logsigmoid(x @ w["gk_proj.0.weight"].T @ w["gk_proj.1.weight"].T + w["gk_proj.1.bias"]) / 16
    q, k, v, g = (rearrange(t, "b t (h k) -> b t h k", h=2) for t in (q, k, v, g))
    S, outputs = torch.zeros(2, 2, 2, 4, dtype=torch.float64), []
    for t in range(T):
        S = S * g[:, t].exp()[..., None] + k[:, t, :, :, None] * v[:, t, :, None]
        o = rms(torch.einsum("bhkv,bhk->bhv", S, q[:, t]) * 2**-0.5, w[norm.replace("__", ".")])
        outputs.append((o.flatten(1) * silu(x[:, t] @ w["g_proj.weight"].T)) @ w["o_proj.weight"].T)
    layer = GatedLinearAttention(D, 2, decay_rank=6, d_conv=4 if conv else None, dtype=torch.float64)
    check(layer, w, torch.stack(outputs, 1))


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"d_conv": 1},
        {"output_gate": True, "eigenvalues": "signed"},
        {"gated": True, "n_householder": 3},
        {"gated": True, "output_gate": True},
    ],
    ids=str,
)
def test_deltanet(options):
    """Steps lie in rows of k_proj, v_proj and b_proj as (n, h); the state decays once, on the first."""
    n = options.get("n_householder", 1)
    shapes = {f"{name}_proj__weight": (D, D) for name in "qo"} | {"b_proj__weight": (2 * n, D), "o_norm__weight": (4,)}
    shapes |= {f"{name}_proj__weight": (n * D, D) for name in "kv"}
    if "d_conv" not in options:
        shapes |= {f"{name}_conv1d__weight": (D if name == "q" else n * D, 1, 4) for name in "qkv"}
    if "output_gate" in options:
        shapes["g_proj__weight"] = (D, D)
    if "gated" in options:
        shapes |= {"a_proj__weight": (2, D), "A_log": (2,), "dt_bias": (2,)}
    w, x = weights(**shapes), tokens()
    parts = []
    for name in "qkv":
        part = x @ w[f"{name}_proj.weight"].T
        part = silu(part) if "d_conv" in options else shift(part, w[f"{name}_conv1d.weight"])
        parts.append(rearrange(part, "b t (n h k) -> b t n h k", h=2, k=4))
    q, k, v = normalize(parts[0])[:, :, 0] / 2, normalize(parts[1]), parts[2]
    beta = rearrange((x @ w["b_proj.weight"].T).sigmoid(), "b t (n h) -> b t n h", n=n) * (
        2 if "eigenvalues" in options else 1
    )
    S, outputs = torch.zeros(2, 2, 4, 4, dtype=torch.float64), []
    for t in range(T):
        if "gated" in options:
            decay = -w["A_log"].exp() * softplus(x[:, t] @ w["a_proj.weight"].T + w["dt_bias"])
            S = S * decay.exp()[:, :, None, None]
        for i in range(n):
            read = torch.einsum("bhkv,bhk->bhv", S, k[:, t, i])
            S = S + k[:, t, i, :, :, None] * (beta[:, t, i, :, None] * (v[:, t, i] - read))[:, :, None]
        o = rms(torch.einsum("bhkv,bhk->bhv", S, q[:, t]), w["o_norm.weight"])
        if "output_gate" in options:
            o = o * silu(x[:, t] @ w["g_proj.weight"].T).unflatten(-1, (2, 4))
        outputs.append(o.flatten(1) @ w["o_proj.weight"].T)
    check(DeltaNet(D, 2, **options, dtype=torch.float64), w, torch.stack(outputs, 1))
    # By the names that their papers have.
    if n > 1:
        check(DeltaProduct(D, 2, eigenvalues="positive", **options, dtype=torch.float64), w, torch.stack(outputs, 1))
    elif "gated" in options:
        check(GatedDeltaNet(D, 2, dtype=torch.float64), w, torch.stack(outputs, 1))


def test_mamba():
    w = weights(
        in_proj__weight=(32, D), conv1d__weight=(16, 1, 4), conv1d__bias=(16,), x_proj__weight=(1 + 6, 16),
        dt_proj__weight=(16, 1), dt_proj__bias=(16,), A_log=(16, 3), D=(16,), out_proj__weight=(D, 16),
    )  # fmt: skip
    u, z = (tokens() @ w["in_proj.weight"].T).chunk(2, -1)
    u = shift(u, w["conv1d.weight"], w["conv1d.bias"])
    r, b, c = (u @ w["x_proj.weight"].T).split((1, 3, 3), -1)
    dt = softplus(r @ w["dt_proj.weight"].T + w["dt_proj.bias"])
    s, outputs = torch.zeros(2, 16, 3, dtype=torch.float64), []
    for t in range(T):
        s = s * torch.exp(-dt[:, t, :, None] * w["A_log"].exp()) + (dt * u)[:, t, :, None] * b[:, t, None]
        y = (s * c[:, t, None]).sum(-1) + w["D"] * u[:, t]
        outputs.append((y * silu(z[:, t])) @ w["out_proj.weight"].T)
    check(Mamba(D, 3, dtype=torch.float64), w, torch.stack(outputs, 1))


@pytest.mark.parametrize("groups", [1, 2])
def test_mamba2(groups):
    """`group_size=d_ssm // ngroups` in the published norm: heads of another group do not enter it."""
    wide = 3 * groups
    channels = 16 + 2 * wide
    w = weights(
        in_proj__weight=(16 + channels + 4, D), conv1d__weight=(channels, 1, 4), conv1d__bias=(channels,),
        dt_bias=(4,), A_log=(4,), D=(4,), norm__weight=(16,), out_proj__weight=(D, 16),
    )  # fmt: skip
    z, ubc, r = (tokens() @ w["in_proj.weight"].T).split((16, channels, 4), -1)
    u, b, c = shift(ubc, w["conv1d.weight"], w["conv1d.bias"]).split((16, wide, wide), -1)
    u, dt = rearrange(u, "b t (h p) -> b t h p", h=4), softplus(r + w["dt_bias"])
    b, c = (repeat(t, "b t (g n) -> b t (g h) n", g=groups, h=4 // groups) for t in (b, c))
    s, outputs = torch.zeros(2, 4, 4, 3, dtype=torch.float64), []  # (heads, channels, states), as published
    for t in range(T):
        decay = torch.exp(-dt[:, t] * w["A_log"].exp())
        s = s * decay[..., None, None] + (dt[..., None] * u)[:, t, :, :, None] * b[:, t, :, None]
        y = (s * c[:, t, :, None]).sum(-1) + w["D"][:, None] * u[:, t]
        y = rearrange(y, "b h p -> b (h p)") * silu(z[:, t])
        y = rearrange(y, "b (g d) -> b g d", g=groups)
        outputs.append(rms(y, w["norm.weight"].view(groups, -1)).flatten(1) @ w["out_proj.weight"].T)
    check(Mamba2(D, 3, n_heads=4, n_groups=groups, dtype=torch.float64), w, torch.stack(outputs, 1))


def test_what_does_not_fit_is_named():
    w = {name: torch.zeros_like(t) for name, t in Mamba(D, 3).state_dict().items()}
    for layer, published, prefix, match in (
        (Mamba(D, 3), {n: t for n, t in w.items() if n != "D"}, "", "Mamba needs D under prefix ''"),
        (Mamba(D, 3), w, "layer.", r"Mamba needs A_log, .* under prefix 'layer.', found nothing"),
        (Mamba(D, 3), w | {"norm.weight": torch.ones(D)}, "", "no place for norm.weight"),
        (Mamba(D, 4), w, "", r"Mamba.A_log has shape \(16, 4\), but it came as A_log \(16, 3\)"),
        (LSTM(D), w, "", "layer must be one of Mamba, .*, got LSTM"),
        (GatedLinearAttention(D, 2, "rope"), {}, "", "published GatedLinearAttention has no positions, tie_decay"),
        (DeltaNet(D, 2, position="rope"), {}, "", "published DeltaNet has no positions"),
        (SLSTM(D, 4, n_heads=2), {}, "", "published SLSTM has no d_state"),
        (MinGRU(D, 4), {}, "", "published MinGRU has no d_state"),
    ):
        with pytest.raises(ValueError, match=match):
            load_published(layer, published, prefix)
