"""Token mixers: layers that mix information along a sequence, all with one contract (`TokenMixer`)."""

from seqmix.mixers.attention import Attention
from seqmix.mixers.base import TokenMixer, recurrent_dtype
from seqmix.mixers.bd_lru import BDLRU
from seqmix.mixers.deltanet import DeltaNet
from seqmix.mixers.dense import DenseRNN
from seqmix.mixers.fp_mamba import FixedPointMamba
from seqmix.mixers.fp_rnn import FixedPointRNN
from seqmix.mixers.gla import GatedLinearAttention
from seqmix.mixers.h_lru import HLRU
from seqmix.mixers.lru import LRU
from seqmix.mixers.lstm import LSTM
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.mamba2 import Mamba2
from seqmix.mixers.mamba3 import Mamba3
from seqmix.mixers.module_mixer import ModuleMixer
from seqmix.mixers.registry import create_mixer, list_mixers, register_mixer
from seqmix.mixers.rg_lru import RGLRU
from seqmix.mixers.selective_rope import SelectiveRoPE
from seqmix.mixers.state import mixer_state

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
    "TokenMixer",
    "create_mixer",
    "list_mixers",
    "mixer_state",
    "recurrent_dtype",
    "register_mixer",
]
