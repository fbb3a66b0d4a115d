"""h_t = sum_i a_{t,i} h_{t-i} + x_t, plain and with softmax gates."""

from seqmix.kernels.higher_order_scan.api import gated_higher_order_scan, higher_order_scan

__all__ = ["gated_higher_order_scan", "higher_order_scan"]
