"""Gated linear attention as a plain loop over time; the truth that every kernel is held to."""

import torch
from torch import Tensor


def gated_linear_attention(
    q: Tensor, k: Tensor, v: Tensor, log_g: Tensor | None = None, *, initial_state: Tensor
) -> tuple[Tensor, Tensor]:
    """S_t = diag(e^{g_t}) S_{t-1} + k_t v_t^T, o_t = S_t^T q_t.

    Shapes: q, k (B, T, H, K), v (B, T, H, V), log_g (B, T, H, K) or (B, T, H), initial_state (B, H, K, V); returns
    o (B, T, H, V) and S_T (B, H, K, V).
    """
    S, outputs = initial_state, []
    gates = [None] * q.shape[1] if log_g is None else (log_g if log_g.ndim == 4 else log_g[..., None]).exp().unbind(1)
    for q_t, k_t, v_t, g_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), gates, strict=True):
        decayed = S if g_t is None else g_t[..., None] * S
        S = decayed + k_t[..., None] * v_t[..., None, :]
        outputs.append((S * q_t[..., None]).sum(-2))
    return torch.stack(outputs, dim=1), S
