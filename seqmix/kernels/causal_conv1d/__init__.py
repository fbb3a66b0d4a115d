"""y_t = activation(bias + sum_i weight_i x_{t-W+1+i}), each channel on its own."""

from seqmix.kernels.causal_conv1d.api import causal_conv1d

__all__ = ["causal_conv1d"]
