"""h_t[i] = sum over j with index_t[j] = i of d_t[j] h_{t-1}[j], + x_t[i]."""

from seqmix.kernels.gather_scan.api import gather_scan

__all__ = ["gather_scan"]
