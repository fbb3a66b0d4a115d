"""The generalised delta rule as a plain loop over time; the truth that every kernel is held to."""

import torch
from torch import Tensor


def dplr_delta_rule(
    q: Tensor, k: Tensor, v: Tensor, a: Tensor, b: Tensor, log_w: Tensor, *, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = (Diag(e^{w_t}) + a_t b_t^T) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t.

    Shapes: q, k, a, b, log_w (B, T, H, K), v (B, T, H, V), initial_state (B, H, K, V); returns o (B, T, H, V) and S_T
    (B, H, K, V).
    """
    S, outputs = initial_state, []
    columns = (x[..., None].unbind(1) for x in (q, k, a, b, log_w.exp()))
    for v_t, q_t, k_t, a_t, b_t, w_t in zip(v[..., None, :].unbind(1), *columns, strict=True):
        read = (S * b_t).sum(-2, keepdim=True)
        S = w_t * S + a_t * read + k_t * v_t
        outputs.append((S * q_t).sum(-2))
    return torch.stack(outputs, dim=1), S
