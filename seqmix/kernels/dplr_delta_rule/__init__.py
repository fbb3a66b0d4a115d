"""S_t = (Diag(e^{w_t}) + a_t b_t^T) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t: the generalised delta rule."""

from seqmix.kernels.dplr_delta_rule.api import dplr_delta_rule

__all__ = ["dplr_delta_rule"]
