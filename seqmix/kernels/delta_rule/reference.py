"""The delta rule as a plain loop over time; the truth that every kernel is held to."""

import torch
from torch import Tensor


def delta_rule(
    q: Tensor, k: Tensor, v: Tensor, beta: Tensor, log_g: Tensor | None = None, *, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = (I - beta_t k_t k_t^T) e^{g_t} S_{t-1} + beta_t k_t v_t^T, o_t = S_t^T q_t.

    Shapes: q, k (B, T, H, K), v (B, T, H, V), beta, log_g (B, T, H), initial_state (B, H, K, V); returns
    o (B, T, H, V) and S_T (B, H, K, V).
    """
    S, outputs = initial_state, []
    gates = [None] * q.shape[1] if log_g is None else log_g.exp()[..., None, None].unbind(1)
    steps = zip(*(x.unbind(1) for x in (q, k, v, beta[..., None])), gates, strict=True)
    for q_t, k_t, v_t, beta_t, g_t in steps:
        S = S if g_t is None else g_t * S
        read = (S * k_t[..., None]).sum(-2)
        S = S + k_t[..., None] * (beta_t * (v_t - read))[..., None, :]
        outputs.append((S * q_t[..., None]).sum(-2))
    return torch.stack(outputs, dim=1), S
