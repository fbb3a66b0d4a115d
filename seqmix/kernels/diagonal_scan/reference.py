"""The diagonal recurrence as a plain loop over time; the truth that every kernel is held to."""

import torch
from torch import Tensor


def diagonal_scan(a: Tensor, x: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = a_t h_{t-1} + x_t.

    Shapes: a (B, T, D) or (D,), x (B, T, D), initial_state (B, D); returns h (B, T, D) and h_T (B, D).
    """
    gates = a.unbind(1) if a.ndim == 3 else [a] * x.shape[1]
    h, states = initial_state, []
    for a_t, x_t in zip(gates, x.unbind(1), strict=True):
        h = a_t * h + x_t
        states.append(h)
    return torch.stack(states, dim=1), h
