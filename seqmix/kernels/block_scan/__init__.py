"""h_t = A_t h_{t-1} + x_t with block-diagonal A_t, plain and with softmax gates."""

from seqmix.kernels.block_scan.api import block_scan, gated_block_scan

__all__ = ["block_scan", "gated_block_scan"]
