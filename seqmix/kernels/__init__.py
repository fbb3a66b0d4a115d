"""Functional ops, without parameters: one folder per recurrence, each with a reference, kernels and an API.

Letters: B batch, T time, D channels, H heads, K key width, V value width, N blocks or state size, m block size or
order, S sequences (B, or the number of packed sequences).

A function has the name of its folder, so a reference is reached as
`from seqmix.kernels.diagonal_scan import reference`.
"""

from seqmix.kernels._backend import backend
from seqmix.kernels._in_place import states_in_place
from seqmix.kernels._invariant import batch_invariant
from seqmix.kernels.block_scan import block_scan, gated_block_scan
from seqmix.kernels.causal_conv1d import causal_conv1d
from seqmix.kernels.delta_rule import delta_rule
from seqmix.kernels.diagonal_scan import diagonal_scan
from seqmix.kernels.dplr_delta_rule import dplr_delta_rule
from seqmix.kernels.gated_linear_attention import gated_linear_attention
from seqmix.kernels.gather_scan import gather_scan
from seqmix.kernels.higher_order_scan import gated_higher_order_scan, higher_order_scan
from seqmix.kernels.newton_scan import newton_scan
from seqmix.kernels.selective_rotary import selective_rotary
from seqmix.kernels.selective_scan import selective_scan

__all__ = [
    "backend",
    "batch_invariant",
    "block_scan",
    "causal_conv1d",
    "delta_rule",
    "diagonal_scan",
    "dplr_delta_rule",
    "gated_block_scan",
    "gated_higher_order_scan",
    "gated_linear_attention",
    "gather_scan",
    "higher_order_scan",
    "newton_scan",
    "selective_rotary",
    "selective_scan",
    "states_in_place",
]
