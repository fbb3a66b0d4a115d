"""Tables of published parameters: from a parameter of ours to those that it is made of, for `convert`.

Ours often project with one matrix what theirs do with several: rows are concatenated in the order of the names, unless
a table says how else. Sources: mamba_ssm (Mamba, Mamba-2), fla/layers (GLA, the delta rules, RWKV-7, HGRN2, RetNet,
MesaNet, PaTH), BlinkDL/RWKV-LM (RWKV-7), NX-AI/xlstm (mLSTM of xlstm_large, sLSTM), lm-engine (M2RNN), state-spaces/s4
(S4D), lindermanlab/S5, lucidrains/minGRU-pytorch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from seqmix.mixers.deltanet import DeltaNet
from seqmix.mixers.deltanet_names import DeltaProduct, GatedDeltaNet
from seqmix.mixers.gated_deltanet2 import GatedDeltaNet2
from seqmix.mixers.gla import GatedLinearAttention
from seqmix.mixers.hgrn2 import HGRN2
from seqmix.mixers.kda import KDA
from seqmix.mixers.m2rnn import M2RNN
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.mamba2 import Mamba2
from seqmix.mixers.mesa import Mesa
from seqmix.mixers.min_gru import MinGRU
from seqmix.mixers.min_lstm import MinLSTM
from seqmix.mixers.mlstm import MLSTM
from seqmix.mixers.path import PaTH
from seqmix.mixers.retnet import RetNet
from seqmix.mixers.rwkv7 import RWKV7
from seqmix.mixers.s4d import S4D
from seqmix.mixers.s5 import S5
from seqmix.mixers.slstm import SLSTM

__all__ = ["LAYOUTS", "UNUSED", "From"]

Source = Mapping[str, Tensor]


@dataclass(frozen=True)
class From:
    """Published names, and how a parameter of ours is made of them; rows one below the other if not said."""

    names: tuple[str, ...]
    made: Callable[..., Tensor] = lambda *parts: torch.cat(parts) if len(parts) > 1 else parts[0]


Table = dict[str, From]


def _rename(**names: str | tuple[str, ...]) -> Table:
    """`our__name="theirs"`, or several of theirs."""
    return {ours.replace("__", "."): From((theirs,) if isinstance(theirs, str) else theirs)
            for ours, theirs in names.items()}  # fmt: skip


def _weights(*names: str) -> tuple[str, ...]:
    return tuple(f"{name}.weight" for name in names)


_QKV = _weights("q_proj", "k_proj", "v_proj")
_CONV = _weights("q_conv1d", "k_conv1d", "v_conv1d")


def refuse(layer: Any, **options: bool) -> None:
    """`ValueError` that names the options which the published layer does not have."""
    used = [name for name, on in options.items() if on]
    if used:
        raise ValueError(
            f"load_published: the published {type(layer).__name__} has no {', '.join(used)}; build the layer without"
        )


def _same(layer: Any, source: Source) -> Table:
    return {name: From((name,)) for name, _ in layer.named_parameters()}


def _gla(layer: GatedLinearAttention, source: Source) -> Table:
    refuse(layer, positions=layer.position_name is not None, tie_decay=layer.tie_decay)
    table = _rename(
        in_proj__weight=(*_QKV, "g_proj.weight"),
        decay_down__weight="gk_proj.0.weight",
        decay_up__weight="gk_proj.1.weight",
        decay_up__bias="gk_proj.1.bias",
        norm_weight=_first(source, "g_norm_swish_gate.weight", "g_norm.weight"),
        out_proj__weight="o_proj.weight",
    )
    return table | (_rename(conv_weight=_CONV) if layer.conv_weight is not None else {})


def _first(source: Source, name: str, otherwise: str) -> str:
    return name if name in source else otherwise


def _deltanet(layer: DeltaNet, source: Source) -> Table:
    refuse(layer, positions=layer.position_name is not None)
    n = layer.n_householder

    def by_head(rows: Tensor) -> Tensor:  # rows (n h), here (h n)
        return rearrange(rows, "(n h) d -> (h n) d", n=n)

    table = _rename(in_proj__weight=_QKV, norm_weight="o_norm.weight", out_proj__weight="o_proj.weight")
    table["beta_proj.weight"] = From(("b_proj.weight",), by_head)
    table |= _rename(conv_weight=_CONV) if layer.conv_weight is not None else {}
    table |= _rename(gate_proj__weight="g_proj.weight") if layer.gate_proj is not None else {}
    gates = _rename(decay_proj__weight="a_proj.weight", A_log="A_log", dt_bias="dt_bias")
    return table | (gates if layer.gated else {})


def _kda(layer: KDA, source: Source) -> Table:
    table = _rename(
        in_proj__weight=_QKV,
        conv_weight=_CONV,
        decay_down__weight="f_proj.0.weight",
        decay_up__weight="f_proj.1.weight",
        A_log="A_log",
        dt_bias="dt_bias",
        gate_down__weight="g_proj.0.weight",
        gate_up__weight="g_proj.1.weight",
        gate_up__bias="g_proj.1.bias",
        norm_weight="o_norm.weight",
        out_proj__weight="o_proj.weight",
    )
    if isinstance(layer, GatedDeltaNet2):
        return table | _rename(erase_proj__weight="b_proj.weight", write_proj__weight="w_proj.weight")
    return table | _rename(beta_proj__weight="b_proj.weight")


def _rwkv7(layer: RWKV7, source: Source) -> Table:
    keys = layer.n_heads * layer.d_key
    refuse(layer, expand_k=keys != layer.d_model)
    table = {"mu": From(tuple(f"x_{s}" for s in "rwkvag"), lambda *rows: torch.cat([row.view(1, -1) for row in rows]))}
    table |= {name: From((name,), lambda t: t.view(layer.n_heads, -1)) for name in ("k_k", "k_a", "r_k")}
    if "receptance.weight" in source:
        table |= _rename(
            r_proj__weight="receptance.weight",
            k_proj__weight="key.weight",
            v_proj__weight="value.weight",
            out_proj__weight="output.weight",
            norm_weight="ln_x.weight",
            norm_bias="ln_x.bias",
        )
        for s in "wag":
            table |= {f"{s}_{way}.weight": From((f"{s}{i}",), lambda t: t.mT) for i, way in ((1, "down"), (2, "up"))}
        return table | {f"{s}_up.bias": From((f"{s}0",), lambda t: t.flatten()) for s in "wa"}
    for s in "wag":
        table |= _rename(
            **{f"{s}_down__weight": f"{s}_lora.lora.0.weight", f"{s}_up__weight": f"{s}_lora.lora.2.weight"}
        )
    table |= _rename(w_up__bias="w_lora.lora.2.bias", a_up__bias="a_lora.lora.2.bias")
    table |= _rename(norm_weight="g_norm.weight", norm_bias="g_norm.bias", out_proj__weight="o_proj.weight")
    return table | _rename(**{f"{s}_proj__weight": f"{s}_proj.weight" for s in "rkv"})


def _hgrn2(layer: HGRN2, source: Source) -> Table:
    projections = _rename(**{f"{s}_proj__weight": f"{s}_proj.weight" for s in "qfi"})
    return projections | _rename(norm_weight="g_norm.weight", out_proj__weight="o_proj.weight")


def _retnet(layer: RetNet, source: Source) -> Table:
    norm = _first(source, "g_norm_swish_gate.weight", "g_norm.weight")
    return _rename(in_proj__weight=(*_QKV, "g_proj.weight"), norm_weight=norm, out_proj__weight="o_proj.weight")


def _mesa(layer: Mesa, source: Source) -> Table:
    table = _rename(
        in_proj__weight=_QKV,
        conv_weight=_CONV[:2],
        gate_proj__weight=_weights("b_proj", "a_proj"),
        gate_proj__bias=("b_proj.bias", "a_proj.bias"),
        norm_weight="o_norm.weight",
        out_proj__weight="o_proj.weight",
    )
    return table | {"lambda_raw": From(("lambda_params",), lambda t: t.view(layer.n_heads, -1))}


def _path(layer: PaTH, source: Source) -> Table:
    table = _rename(
        qkv_proj__weight=_QKV,
        w_down__weight="w_proj.0.weight",
        w_up__weight="w_proj.1.weight",
        conv_weight="w_conv1d.weight",
        beta_proj__weight="bt_proj.weight",
        beta_proj__bias="bt_proj.bias",
        out_proj__weight="o_proj.weight",
    )
    gates = _rename(forget_proj__weight="g_proj.weight", forget_proj__bias="g_proj.bias")
    return table | (gates if layer.forget_gate else {})


def _mlstm(layer: MLSTM, source: Source) -> Table:
    refuse(layer, d_conv=layer.d_conv > 1)  # the layout is that of xLSTM-7B
    fused = "qkv_opreact.weight" in source
    gates = ("ifgate_preact",) if fused else ("igate_preact", "fgate_preact")
    return _rename(
        in_proj__weight=_weights(*(("qkv_opreact",) if fused else ("q", "k", "v", "ogate_preact"))),
        gate_proj__weight=_weights(*gates),
        gate_proj__bias=tuple(f"{name}.bias" for name in gates),
        norm_weight="multihead_norm.weight",
        out_proj__weight="out_proj.weight",
    )


def _slstm(layer: SLSTM, source: Source) -> Table:
    refuse(layer, d_state=layer.d_state != layer.d_model)
    heads, units = layer.n_heads, layer.d_state // layer.n_heads

    def recurrent(kernel: Tensor) -> Tensor:  # (H, N, 4 N), or (H, 4 N, N) in plain torch
        wide = kernel.shape[-1] == units and units > 0
        return rearrange(kernel, "h (g n) m -> h m g n", g=4, h=heads) if wide else kernel.view(layer.R.shape)

    def bias(kernel: Tensor, flat: Tensor) -> Tensor:  # by heads, or by gates in plain torch
        gates_first = kernel.shape[-1] == units
        return rearrange(flat, "(g h n) -> h g n", g=4, h=heads) if gates_first else flat.view(layer.bias.shape)

    kernel = "slstm_cell._recurrent_kernel_"
    table = _rename(conv_weight="conv1d.conv.weight", conv_bias="conv1d.conv.bias")
    # The published layer hands what its names call f to the slot of i, and the other way round.
    table["weight"] = From(_weights("fgate", "igate", "zgate", "ogate"), lambda *gates: torch.stack(gates))
    table["R"], table["bias"] = From((kernel,), recurrent), From((kernel, "slstm_cell._bias_"), bias)
    table["norm_weight"] = From(("group_norm.weight",), lambda t: 1 + t)
    return table | {"out_proj.weight": From((), lambda: torch.eye(layer.d_model))}


def _m2rnn(layer: M2RNN, source: Source) -> Table:
    channels, name = sum(layer.widths), ("input_projection.weight",)
    gate = slice(channels, channels + layer.n_heads)
    table = _rename(
        conv_weight="conv1d.weight",
        A_log="decay_gate.A_log",
        dt_bias="decay_gate.dt_bias",
        W="state_weight",
        D="D",
        norm_weight="g_norm.weight",
        out_proj__weight="output_projection.weight",
    )
    table["in_proj.weight"] = From(name, lambda t: torch.cat((t[:channels], t[gate.stop :])))
    return table | {"decay_proj.weight": From(name, lambda t: t[gate])}


def _s4d(layer: S4D, source: Source) -> Table:
    kernel = _rename(**{name: f"kernel.{name}" for name in ("C", "log_dt", "log_A_real", "A_imag")})
    output = _rename(output_linear__weight="output_linear.0.weight", output_linear__bias="output_linear.0.bias")
    return kernel | output | _rename(D="D")


def _min_gru(layer: MinGRU, source: Source) -> Table:
    width, name = layer.d_state, "to_hidden_and_gate.weight"
    if isinstance(layer, MinLSTM):
        name = "to_hidden_and_f_i_gate.weight"
    table = {
        "in_proj.weight": From((name,), lambda t: t[:width]),
        "gate_proj.weight": From((name,), lambda t: t[width:]),
    }
    for module in ("in_proj", "gate_proj", "out_proj"):
        bias = layer.get_parameter(f"{module}.bias")
        table[f"{module}.bias"] = From((), lambda bias=bias: torch.zeros_like(bias))
    if "to_out.weight" in source:
        return table | _rename(out_proj__weight="to_out.weight")
    refuse(layer, d_state=width != layer.d_model)
    return table | {"out_proj.weight": From((), lambda: torch.eye(width))}


# Of layers under a prefix that ends so, names that are released and not used.
UNUSED: dict[type, tuple[str, frozenset[str]]] = {RWKV7: ("blocks.0.att.", frozenset({"v0", "v1", "v2"}))}
LAYOUTS: dict[type, Callable[..., Table]] = {
    Mamba: _same,
    Mamba2: _same,
    S5: _same,
    S4D: _s4d,
    GatedLinearAttention: _gla,
    DeltaNet: _deltanet,
    GatedDeltaNet: _deltanet,
    DeltaProduct: _deltanet,
    KDA: _kda,
    GatedDeltaNet2: _kda,
    RWKV7: _rwkv7,
    HGRN2: _hgrn2,
    RetNet: _retnet,
    Mesa: _mesa,
    PaTH: _path,
    MLSTM: _mlstm,
    SLSTM: _slstm,
    M2RNN: _m2rnn,
    MinGRU: _min_gru,
    MinLSTM: _min_gru,
}
