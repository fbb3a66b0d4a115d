"""Fixed-point layers: a diagonal recurrence whose input is mixed over channels until the output stays the same."""

from seqmix.mixers.fixed_point.fp_mamba import FixedPointMamba
from seqmix.mixers.fixed_point.fp_rnn import FixedPointRNN

__all__ = ["FixedPointMamba", "FixedPointRNN"]
