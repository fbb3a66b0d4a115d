"""h_t = a_t h_{t-1} + x_t."""

from seqmix.kernels.diagonal_scan.api import diagonal_scan

__all__ = ["diagonal_scan"]
