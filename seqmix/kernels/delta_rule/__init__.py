"""S_t = (I - beta_t k_t k_t^T) e^{g_t} S_{t-1} + beta_t k_t v_t^T, o_t = S_t^T q_t: the (gated) delta rule."""

from seqmix.kernels.delta_rule.api import delta_rule

__all__ = ["delta_rule"]
