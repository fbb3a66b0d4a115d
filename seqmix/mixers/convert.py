"""Weights of published layers in the layouts of their releases, from `mamba_ssm`, `fla`, `xlstm` and others.

Each layout is a table from a parameter of ours to the published ones that it is made of: ours project q, k, v (and the
output gate) with one matrix, theirs with one each. Nothing is scaled: both keep the factor K^{-1/2} out of the weights.
"""

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor

from seqmix.mixers._layouts import LAYOUTS, UNUSED
from seqmix.mixers.base import TokenMixer

__all__ = ["load_published"]

Layer = TypeVar("Layer", bound=TokenMixer)


def load_published(layer: Layer, state_dict: Mapping[str, Tensor], prefix: str = "") -> Layer:
    """Load published weights into a layer of the same shape, and return it.

    What is released under a name and used in another place is put where it is used: rows of b_proj of DeltaProduct, the
    gates i and f of sLSTM, whose layer of ours then has no map after it. RWKV-7 is that of a first layer: v0, v1 and v2
    belong to later ones, which mix values across layers, and are left alone under a prefix of the first, in which they
    are released and not used (`"blocks.0.att."`).

    Args:
        layer: a `Mamba`, `Mamba2`, `GatedLinearAttention`, `DeltaNet` (gated, with an output gate, of any number of
            steps), `GatedDeltaNet`, `DeltaProduct`, `KDA`, `GatedDeltaNet2`, `RWKV7`, `HGRN2`, `RetNet`, `Mesa`,
            `PaTH`, `MLSTM`, `SLSTM`, `M2RNN`, `S4D`, `S5`, `MinGRU` or `MinLSTM`.
        state_dict: published parameters by name: those of one layer, or of a whole model with `prefix`.
        prefix: in front of the layer's names, such as `"backbone.layers.0.mixer."`; all other entries are left alone.

    Raises:
        ValueError: a layer without a published layout or with options that theirs does not have, a name that is
            missing or left over, a shape that differs.

    Source: mamba_ssm/modules, fla/layers, RWKV-LM/RWKV-v7, xlstm (xlstm_large and blocks/slstm), lm-engine, s4, S5,
    minGRU-pytorch.

    Example:
        >>> import torch
        >>> from seqmix.mixers import Mamba2
        >>> from seqmix.mixers.convert import load_published
        >>> published = {f"mixer.{name}": torch.zeros_like(p) for name, p in Mamba2(8, 4).state_dict().items()}
        >>> load_published(Mamba2(8, 4), published, prefix="mixer.").out_proj.weight.any().item()
        False
    """
    kind = type(layer).__name__
    if type(layer) not in LAYOUTS:
        known = ", ".join(each.__name__ for each in LAYOUTS)
        raise ValueError(f"load_published: layer must be one of {known}, got {kind}")
    source = {name.removeprefix(prefix): t for name, t in state_dict.items() if name.startswith(prefix)}
    ending, unused = UNUSED.get(type(layer), ("", frozenset()))
    if prefix.endswith(ending):
        source = {name: t for name, t in source.items() if name not in unused}
    table = LAYOUTS[type(layer)](layer, source)
    wanted = {name for piece in table.values() for name in piece.names}
    missing = sorted(wanted - set(source))
    if missing:
        found = ", ".join(sorted(source)) or "nothing"
        raise ValueError(f"load_published: {kind} needs {', '.join(missing)} under prefix {prefix!r}, found {found}")
    extra = sorted(set(source) - wanted)
    if extra:
        raise ValueError(f"load_published: {kind} as it was built has no place for {', '.join(extra)}")
    own = dict(layer.named_parameters())
    converted = {}
    for name, piece in table.items():
        came = " + ".join(f"{n} {tuple(source[n].shape)}" for n in piece.names)
        try:
            value = piece.made(*(source[n] for n in piece.names))
        except RuntimeError:  # sizes that cannot be cut or joined as the layout does
            value = None
        # Convolutions (D, 1, W), and what is released as (1, 1, D).
        if value is None or value.squeeze().shape != own[name].squeeze().shape:
            raise ValueError(f"load_published: {kind}.{name} has shape {tuple(own[name].shape)}, but it came as {came}")
        converted[name] = value.reshape(own[name].shape)
    layer.load_state_dict(converted)
    return layer
