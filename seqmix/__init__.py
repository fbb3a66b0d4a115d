"""seqmix: token mixers for sequence models, exact, fast on a laptop and on a GPU, compared honestly.

Everything public is imported from here; each name loads its module when first used, so that `import seqmix` costs
next to nothing beyond `import torch`.
"""

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from seqmix.mixers import (
        BDLRU,
        HLRU,
        LRU,
        LSTM,
        RGLRU,
        Attention,
        DeltaNet,
        DenseRNN,
        FixedPointMamba,
        FixedPointRNN,
        GatedLinearAttention,
        Mamba,
        Mamba2,
        Mamba3,
        ModuleMixer,
        SelectiveRoPE,
        TokenMixer,
        create_mixer,
        list_mixers,
        register_mixer,
    )
    from seqmix.models import SequenceModel
    from seqmix.optim import parameter_groups

_HOMES = {
    "seqmix.mixers": (
        "Attention",
        "BDLRU",
        "DeltaNet",
        "DenseRNN",
        "FixedPointMamba",
        "FixedPointRNN",
        "GatedLinearAttention",
        "HLRU",
        "LRU",
        "LSTM",
        "Mamba",
        "Mamba2",
        "Mamba3",
        "ModuleMixer",
        "RGLRU",
        "SelectiveRoPE",
        "TokenMixer",
        "create_mixer",
        "list_mixers",
        "register_mixer",
    ),
    "seqmix.models": ("SequenceModel",),
    "seqmix.optim": ("parameter_groups",),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
_SUBMODULES = (
    "benchmarks",
    "inspect",
    "kernels",
    "leaderboard",
    "mixers",
    "models",
    "optim",
    "tasks",
    "testing",
    "training",
)

__all__ = [
    "BDLRU",
    "HLRU",
    "LRU",
    "LSTM",
    "RGLRU",
    "Attention",
    "DeltaNet",
    "DenseRNN",
    "FixedPointMamba",
    "FixedPointRNN",
    "GatedLinearAttention",
    "Mamba",
    "Mamba2",
    "Mamba3",
    "ModuleMixer",
    "SelectiveRoPE",
    "SequenceModel",
    "TokenMixer",
    "create_mixer",
    "list_mixers",
    "parameter_groups",
    "register_mixer",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    if name in _SUBMODULES:
        return importlib.import_module(f"seqmix.{name}")
    raise AttributeError(f"module 'seqmix' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_SUBMODULES})
