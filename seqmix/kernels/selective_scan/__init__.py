"""s_t = e^{dt_t A} s_{t-1} + dt_t x_t B_t, y_t = s_t C_t + D x_t."""

from seqmix.kernels.selective_scan.api import selective_scan

__all__ = ["selective_scan"]
