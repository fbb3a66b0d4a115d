"""h_t = f(h_{t-1}, x_t) for any f, all t at once by Newton's method."""

from seqmix.kernels.newton_scan.api import NewtonScan, newton_scan

__all__ = ["NewtonScan", "newton_scan"]
