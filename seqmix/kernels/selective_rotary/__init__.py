"""q_t and k_t turned by the running sum of data-dependent angles: Selective RoPE's rotation."""

from seqmix.kernels.selective_rotary.api import selective_rotary

__all__ = ["selective_rotary"]
