"""Token mixers: layers that mix information along a sequence, all with one contract (`TokenMixer`)."""

from seqmix.mixers.attention import Attention
from seqmix.mixers.base import TokenMixer
from seqmix.mixers.bd_lru import BDLRU
from seqmix.mixers.lstm import LSTM
from seqmix.mixers.registry import create_mixer, list_mixers, register_mixer

__all__ = [
    "BDLRU",
    "LSTM",
    "Attention",
    "TokenMixer",
    "create_mixer",
    "list_mixers",
    "register_mixer",
]
