"""Difference equations of order m as plain loops over time; the truth that every kernel is held to."""

import torch
from torch import Tensor


def higher_order_scan(a: Tensor, x: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = sum_i a_{t,i} h_{t-i} + x_t, i = 1..m, for every channel.

    Shapes: a (B, T, N, m), newest lag first; x (B, T, N); initial_state (B, N, m) = (h_0, h_{-1}, ...).
    Returns h (B, T, N) and (h_T, h_{T-1}, ...) (B, N, m).
    """
    lags, states = initial_state, []
    for a_t, x_t in zip(a.unbind(1), x.unbind(1), strict=True):
        h = (a_t * lags).sum(-1) + x_t
        lags = torch.cat([h.unsqueeze(-1), lags[..., :-1]], dim=-1)
        states.append(h)
    return torch.stack(states, dim=1), lags


def gated_higher_order_scan(logits: Tensor, v: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """[a_t, g_t] = softmax(logits_t), h_t = sum_i a_{t,i} h_{t-i} + g_t v_t.

    Shapes: logits (B, T, N, m + 1), input gate last; v (B, T, N); initial_state (B, N, m).
    """
    gates = logits.softmax(-1)
    return higher_order_scan(gates[..., :-1], gates[..., -1] * v, initial_state)
