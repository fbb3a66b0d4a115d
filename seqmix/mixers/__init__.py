"""Token mixers: layers that mix information along a sequence, all with one contract (`TokenMixer`)."""

from seqmix.mixers.attention import Attention
from seqmix.mixers.base import TokenMixer
from seqmix.mixers.bd_lru import BDLRU
from seqmix.mixers.dense import DenseRNN
from seqmix.mixers.fixed_point import FixedPointRNN
from seqmix.mixers.h_lru import HLRU
from seqmix.mixers.lru import LRU
from seqmix.mixers.lstm import LSTM
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.registry import create_mixer, list_mixers, register_mixer

__all__ = [
    "BDLRU",
    "HLRU",
    "LRU",
    "LSTM",
    "Attention",
    "DenseRNN",
    "FixedPointRNN",
    "Mamba",
    "TokenMixer",
    "create_mixer",
    "list_mixers",
    "register_mixer",
]
