"""Where every published parameter goes: to a place that is told here from our side, or to what a loop expects."""

import pytest
import torch
from einops import rearrange
from torch.nn.functional import layer_norm, silu, softplus

from seqmix.mixers import (
    HGRN2,
    KDA,
    M2RNN,
    MLSTM,
    RWKV7,
    S4D,
    S5,
    SLSTM,
    GatedDeltaNet2,
    Mesa,
    MinGRU,
    MinLSTM,
    PaTH,
    RetNet,
)
from seqmix.mixers.convert import load_published

D = 8
FIRST, SECOND, THIRD, LAST = slice(0, 8), slice(8, 16), slice(16, 24), slice(24, 32)
QKV = {
    "q_proj.weight": lambda m: m.in_proj.weight[FIRST],
    "k_proj.weight": lambda m: m.in_proj.weight[SECOND],
    "v_proj.weight": lambda m: m.in_proj.weight[THIRD],
}
CONV = {
    "q_conv1d.weight": lambda m: m.conv_weight[FIRST, None],
    "k_conv1d.weight": lambda m: m.conv_weight[SECOND, None],
}
OUT = {"o_norm.weight": lambda m: m.norm_weight, "o_proj.weight": lambda m: m.out_proj.weight}
KIMI = QKV | CONV | OUT | {
    "v_conv1d.weight": lambda m: m.conv_weight[THIRD, None],
    "f_proj.0.weight": lambda m: m.decay_down.weight,
    "f_proj.1.weight": lambda m: m.decay_up.weight,
    "A_log": lambda m: m.A_log,
    "dt_bias": lambda m: m.dt_bias,
    "g_proj.0.weight": lambda m: m.gate_down.weight,
    "g_proj.1.weight": lambda m: m.gate_up.weight,
    "g_proj.1.bias": lambda m: m.gate_up.bias,
}  # fmt: skip
SHIFTS = {f"x_{s}": lambda m, row=row: m.mu[row].view(1, 1, -1) for row, s in enumerate("rwkvag")}
PLACES = {
    "kda": (KDA, KIMI | {"b_proj.weight": lambda m: m.beta_proj.weight}),
    "gated-deltanet-2": (
        GatedDeltaNet2,
        KIMI | {"b_proj.weight": lambda m: m.erase_proj.weight, "w_proj.weight": lambda m: m.write_proj.weight},
    ),
    "hgrn-2": (
        HGRN2,
        {f"{s}_proj.weight": lambda m, s=s: m.get_parameter(f"{s}_proj.weight") for s in "qfi"}
        | {"g_norm.weight": lambda m: m.norm_weight, "o_proj.weight": lambda m: m.out_proj.weight},
    ),
    "retnet": (
        lambda d, h: RetNet(d, h, expand_v=1),
        QKV
        | {
            "g_proj.weight": lambda m: m.in_proj.weight[LAST],
            "g_norm_swish_gate.weight": lambda m: m.norm_weight,
            "o_proj.weight": lambda m: m.out_proj.weight,
        },
    ),
    "mesa": (
        Mesa,
        QKV
        | CONV
        | OUT
        | {
            "b_proj.weight": lambda m: m.gate_proj.weight[:2],
            "b_proj.bias": lambda m: m.gate_proj.bias[:2],
            "a_proj.weight": lambda m: m.gate_proj.weight[2:],
            "a_proj.bias": lambda m: m.gate_proj.bias[2:],
            "lambda_params": lambda m: m.lambda_raw.flatten(),
        },
    ),
    "path": (
        lambda d, h: PaTH(d, h, w_rank=3, forget_gate=True),
        {
            "q_proj.weight": lambda m: m.qkv_proj.weight[FIRST],
            "k_proj.weight": lambda m: m.qkv_proj.weight[SECOND],
            "v_proj.weight": lambda m: m.qkv_proj.weight[THIRD],
            "w_proj.0.weight": lambda m: m.w_down.weight,
            "w_proj.1.weight": lambda m: m.w_up.weight,
            "w_conv1d.weight": lambda m: m.conv_weight[:, None],
            "bt_proj.weight": lambda m: m.beta_proj.weight,
            "bt_proj.bias": lambda m: m.beta_proj.bias,
            "g_proj.weight": lambda m: m.forget_proj.weight,
            "g_proj.bias": lambda m: m.forget_proj.bias,
            "o_proj.weight": lambda m: m.out_proj.weight,
        },
    ),
    "rwkv-7 of fla": (
        RWKV7,
        SHIFTS
        | {f"{s}_proj.weight": lambda m, s=s: m.get_parameter(f"{s}_proj.weight") for s in "rkv"}
        | {f"{s}_lora.lora.0.weight": lambda m, s=s: m.get_parameter(f"{s}_down.weight") for s in "wag"}
        | {f"{s}_lora.lora.2.weight": lambda m, s=s: m.get_parameter(f"{s}_up.weight") for s in "wag"}
        | {f"{s}_lora.lora.2.bias": lambda m, s=s: m.get_parameter(f"{s}_up.bias") for s in "wa"}
        | {s: lambda m, s=s: m.get_parameter(s).flatten() for s in ("k_k", "k_a")}
        | {
            "r_k": lambda m: m.r_k,
            "g_norm.weight": lambda m: m.norm_weight,
            "g_norm.bias": lambda m: m.norm_bias,
            "o_proj.weight": lambda m: m.out_proj.weight,
        },
    ),
    "rwkv-7 as released": (
        RWKV7,
        SHIFTS
        | {f"{s}1": lambda m, s=s: m.get_parameter(f"{s}_down.weight").mT for s in "wag"}
        | {f"{s}2": lambda m, s=s: m.get_parameter(f"{s}_up.weight").mT for s in "wag"}
        | {f"{s}0": lambda m, s=s: m.get_parameter(f"{s}_up.bias").view(1, 1, -1) for s in "wa"}
        | {s: lambda m, s=s: m.get_parameter(s).view(1, 1, -1) for s in ("k_k", "k_a")}
        | {
            "r_k": lambda m: m.r_k,
            "receptance.weight": lambda m: m.r_proj.weight,
            "key.weight": lambda m: m.k_proj.weight,
            "value.weight": lambda m: m.v_proj.weight,
            "output.weight": lambda m: m.out_proj.weight,
            "ln_x.weight": lambda m: m.norm_weight,
            "ln_x.bias": lambda m: m.norm_bias,
        },
    ),
    "mlstm": (
        MLSTM,
        {
            "q.weight": lambda m: m.in_proj.weight[FIRST],
            "k.weight": lambda m: m.in_proj.weight[SECOND],
            "v.weight": lambda m: m.in_proj.weight[THIRD],
            "ogate_preact.weight": lambda m: m.in_proj.weight[LAST],
            "igate_preact.weight": lambda m: m.gate_proj.weight[:2],
            "igate_preact.bias": lambda m: m.gate_proj.bias[:2],
            "fgate_preact.weight": lambda m: m.gate_proj.weight[2:],
            "fgate_preact.bias": lambda m: m.gate_proj.bias[2:],
            "multihead_norm.weight": lambda m: m.norm_weight,
            "out_proj.weight": lambda m: m.out_proj.weight,
        },
    ),
    "mlstm, fused": (
        MLSTM,
        {
            "qkv_opreact.weight": lambda m: m.in_proj.weight,
            "ifgate_preact.weight": lambda m: m.gate_proj.weight,
            "ifgate_preact.bias": lambda m: m.gate_proj.bias,
            "multihead_norm.weight": lambda m: m.norm_weight,
            "out_proj.weight": lambda m: m.out_proj.weight,
        },
    ),
    "m2rnn": (
        M2RNN,
        {
            "input_projection.weight": lambda m: torch.cat(
                (m.in_proj.weight[:24], m.decay_proj.weight, m.in_proj.weight[24:])
            ),
            "conv1d.weight": lambda m: m.conv_weight[:, None],
            "decay_gate.A_log": lambda m: m.A_log,
            "decay_gate.dt_bias": lambda m: m.dt_bias,
            "D": lambda m: m.D,
            "state_weight": lambda m: m.W,
            "g_norm.weight": lambda m: m.norm_weight,
            "output_projection.weight": lambda m: m.out_proj.weight,
        },
    ),
    "s4d": (
        lambda d, h: S4D(d, 4),
        {f"kernel.{s}": lambda m, s=s: m.get_parameter(s) for s in ("C", "log_dt", "log_A_real", "A_imag")}
        | {
            "D": lambda m: m.D,
            "output_linear.0.weight": lambda m: m.output_linear.weight[..., None],
            "output_linear.0.bias": lambda m: m.output_linear.bias,
        },
    ),
    "s5": (
        lambda d, h: S5(d),
        {s: lambda m, s=s: m.get_parameter(s) for s in ("Lambda_re", "Lambda_im", "B", "C", "D")}
        | {"log_step": lambda m: m.log_step[:, None]},
    ),
}


@pytest.mark.parametrize("name", PLACES)
def test_places(name):
    make, places = PLACES[name]
    layer = make(D, 2)
    published = {n: torch.randn_like(place(layer)) for n, place in places.items()}
    prefixed = {f"layers.1.{n}": t for n, t in published.items()} | {"layers.2.q_proj.weight": torch.zeros(1)}
    load_published(layer, prefixed, "layers.1.")
    for n, place in places.items():
        torch.testing.assert_close(place(layer), published[n], rtol=0, atol=0, msg=n)
    assert sum(t.numel() for t in published.values()) == sum(p.numel() for p in layer.parameters())


def test_what_a_first_layer_of_rwkv7_does_not_use_is_left_alone():
    """v0, v1, v2 are released in it, and mix values with those of the first layer in others."""
    make, places = PLACES["rwkv-7 as released"]
    layer = make(D, 2)
    published = {n: torch.randn_like(place(layer)) for n, place in places.items()} | {"v0": torch.ones(1, 1, D)}
    load_published(layer, {f"model.blocks.0.att.{n}": t for n, t in published.items()}, "model.blocks.0.att.")
    with pytest.raises(ValueError, match="has no place for v0"):
        load_published(layer, {f"blocks.1.att.{n}": t for n, t in published.items()}, "blocks.1.att.")


@pytest.mark.parametrize("cuda", [True, False])
def test_slstm(cuda):
    """The released layer: gates whose names are exchanged, a norm stored less one, two layouts of the cell."""
    torch.manual_seed(0)
    gates = {f"{s}gate.weight": torch.randn(2, 4, 4, dtype=torch.float64) for s in "ifzo"}
    R, bias = torch.randn(2, 4, 4, 4, dtype=torch.float64), torch.randn(2, 4, 4, dtype=torch.float64)
    if cuda:
        cell = {"_recurrent_kernel_": R.reshape(2, 4, 16), "_bias_": bias.reshape(-1)}
    else:
        cell = {
            "_recurrent_kernel_": rearrange(R, "h m g n -> h (g n) m"),
            "_bias_": rearrange(bias, "h g n -> (g h n)"),
        }
    conv = {"conv1d.conv.weight": torch.randn(D, 1, 1).double(), "conv1d.conv.bias": torch.randn(D).double()}
    norm = torch.randn(D, dtype=torch.float64)
    published = gates | conv | {f"slstm_cell.{n}": t for n, t in cell.items()} | {"group_norm.weight": norm}
    layer = load_published(SLSTM(D, n_heads=2, d_conv=1, dtype=torch.float64), published)

    x = torch.randn(1, 5, D, dtype=torch.float64)
    u = silu(x * conv["conv1d.conv.weight"].flatten() + conv["conv1d.conv.bias"])
    h, c, n, m = (torch.zeros(2, 4, dtype=torch.float64) for _ in range(4))
    rows = []
    for t in range(5):
        seen = {s: (u if s in "if" else x)[0, t].view(2, 4) for s in "ifzo"}
        made = {s: torch.einsum("hnd,hd->hn", gates[f"{s}gate.weight"], seen[s]) for s in "ifzo"}
        slots = torch.stack([made[s] for s in "fizo"], 1)  # what is called f lands in the slot of i
        i, f, z, o = (slots + torch.einsum("hk,hkgn->hgn", h, R) + bias).unbind(1)
        log_f = -softplus(-f)
        most = i if t == 0 else torch.maximum(i, log_f + m)
        keep = (log_f + m - most).exp() * (t > 0)
        c, n, m = keep * c + (i - most).exp() * z.tanh(), keep * n + (i - most).exp(), most
        h = o.sigmoid() * c / n
        rows.append(layer_norm(h, (4,)).flatten() * (1 + norm))
    torch.testing.assert_close(layer(x)[0][0], torch.stack(rows), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("out", [True, False])
def test_min_gru_and_min_lstm(out):
    torch.manual_seed(0)
    width, x = (6 if out else D), torch.randn(1, 7, D, dtype=torch.float64)
    for make, name, parts in ((MinGRU, "to_hidden_and_gate", 2), (MinLSTM, "to_hidden_and_f_i_gate", 3)):
        w = {f"{name}.weight": torch.randn(parts * width, D, dtype=torch.float64)}
        w |= {"to_out.weight": torch.randn(D, width, dtype=torch.float64)} if out else {}
        layer = load_published(make(D, width, dtype=torch.float64), w)
        u, *gates = (x[0] @ w[f"{name}.weight"].mT).chunk(parts, -1)
        if parts == 3:
            f, i = (gate.sigmoid() for gate in gates)
            keep, write = f / (f + i), i / (f + i)
        else:
            keep, write = 1 - gates[0].sigmoid(), gates[0].sigmoid()
        h, rows = torch.zeros(width, dtype=torch.float64), []
        for t in range(7):
            h = keep[t] * h + write[t] * torch.where(u[t] >= 0, u[t] + 0.5, u[t].sigmoid())
            rows.append(h @ w["to_out.weight"].mT if out else h)
        torch.testing.assert_close(layer(x)[0][0], torch.stack(rows), rtol=1e-9, atol=1e-11)
