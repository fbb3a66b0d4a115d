"""S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t: linear attention with a decay."""

from seqmix.kernels.gated_linear_attention.api import gated_linear_attention

__all__ = ["gated_linear_attention"]
