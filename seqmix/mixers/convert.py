"""Weights of published layers in the layouts of `mamba_ssm` (Mamba, Mamba-2) and `fla` (GLA, DeltaNet).

Each layout is a table from a parameter of ours to the published ones that it is made of, concatenated in that order:
ours project q, k, v (and the output gate) with one matrix, theirs with one each. Nothing is scaled: both keep the
factor K^{-1/2} out of the weights.
"""

from collections.abc import Mapping
from typing import TypeVar

import torch
from torch import Tensor

from seqmix.mixers.base import TokenMixer
from seqmix.mixers.deltanet import DeltaNet
from seqmix.mixers.gla import GatedLinearAttention
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.mamba2 import Mamba2

__all__ = ["load_published"]

Layer = TypeVar("Layer", bound=TokenMixer)

_QKV = ("q_proj.weight", "k_proj.weight", "v_proj.weight")
_CONV = ("q_conv1d.weight", "k_conv1d.weight", "v_conv1d.weight")


def load_published(layer: Layer, state_dict: Mapping[str, Tensor], prefix: str = "") -> Layer:
    """Load published weights into a layer of the same shape, and return it.

    Args:
        layer: a `Mamba`, `Mamba2`, `GatedLinearAttention` or `DeltaNet`.
        state_dict: published parameters by name: those of one layer, or of a whole model with `prefix`.
        prefix: in front of the layer's names, such as `"backbone.layers.0.mixer."`; all other entries are left alone.

    Raises:
        ValueError: a layer without a published layout or with options that theirs does not have, a name that is
            missing or left over, a shape that differs.

    Source: mamba_ssm/modules/mamba_simple.py and mamba2.py; fla/layers/gla.py and delta_net.py.

    Example:
        >>> import torch
        >>> from seqmix.mixers import Mamba2
        >>> from seqmix.mixers.convert import load_published
        >>> published = {f"mixer.{name}": torch.zeros_like(p) for name, p in Mamba2(8, 4).state_dict().items()}
        >>> load_published(Mamba2(8, 4), published, prefix="mixer.").out_proj.weight.any().item()
        False
    """
    source = {name.removeprefix(prefix): t for name, t in state_dict.items() if name.startswith(prefix)}
    table = _layout(layer, source)
    kind = type(layer).__name__
    wanted = [name for names in table.values() for name in names]
    missing = sorted(set(wanted) - set(source))
    if missing:
        found = ", ".join(sorted(source)) or "nothing"
        raise ValueError(f"load_published: {kind} needs {', '.join(missing)} under prefix {prefix!r}, found {found}")
    extra = sorted(set(source) - set(wanted))
    if extra:
        raise ValueError(f"load_published: {kind} as it was built has no place for {', '.join(extra)}")
    own = dict(layer.named_parameters())
    converted = {}
    for name, names in table.items():
        value = torch.cat([source[n] for n in names]) if len(names) > 1 else source[names[0]]
        if value.ndim == own[name].ndim + 1 and value.shape[1] == 1:  # convolutions: (D, 1, W) to (D, W)
            value = value.squeeze(1)
        if value.shape != own[name].shape:
            raise ValueError(
                f"load_published: {kind}.{name} has shape {tuple(own[name].shape)}, but {' + '.join(names)} "
                f"has {tuple(value.shape)}"
            )
        converted[name] = value
    layer.load_state_dict(converted)
    return layer


def _layout(layer: TokenMixer, source: Mapping[str, Tensor]) -> dict[str, tuple[str, ...]]:
    if isinstance(layer, Mamba | Mamba2):
        return {name: (name,) for name, _ in layer.named_parameters()}
    if isinstance(layer, GatedLinearAttention):
        _refuse(layer, positions=layer.position_name is not None, tie_decay=layer.tie_decay)
        fused = "g_norm_swish_gate.weight"
        return {
            "in_proj.weight": (*_QKV, "g_proj.weight"),
            "decay_down.weight": ("gk_proj.0.weight",),
            "decay_up.weight": ("gk_proj.1.weight",),
            "decay_up.bias": ("gk_proj.1.bias",),
            "norm_weight": (fused if fused in source else "g_norm.weight",),
            "out_proj.weight": ("o_proj.weight",),
        } | ({"conv_weight": _CONV} if layer.conv_weight is not None else {})
    if isinstance(layer, DeltaNet):
        _refuse(
            layer,
            positions=layer.position_name is not None,
            gated=layer.gated,
            n_householder=layer.n_householder > 1,
        )
        table = {
            "in_proj.weight": _QKV,
            "beta_proj.weight": ("b_proj.weight",),
            "norm_weight": ("o_norm.weight",),
            "out_proj.weight": ("o_proj.weight",),
        }
        table |= {"conv_weight": _CONV} if layer.conv_weight is not None else {}
        return table | ({"gate_proj.weight": ("g_proj.weight",)} if layer.gate_proj is not None else {})
    known = "Mamba, Mamba2, GatedLinearAttention, DeltaNet"
    raise ValueError(f"load_published: layer must be one of {known}, got {type(layer).__name__}")


def _refuse(layer: TokenMixer, **options: bool) -> None:
    used = [name for name, on in options.items() if on]
    if used:
        raise ValueError(
            f"load_published: the published {type(layer).__name__} has no {', '.join(used)}; build the layer without"
        )
