"""The gather recurrence as a plain loop over time; the truth that every kernel is held to."""

import torch
from torch import Tensor


def gather_scan(index: Tensor, d: Tensor, x: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = P_t (d_t * h_{t-1}) + x_t, where column j of P_t is one at row index_t[j] and zero elsewhere.

    Shapes: index (B, T, N) of integers, d, x (B, T, N), initial_state (B, N); returns h (B, T, N) and h_T (B, N).
    """
    h, states = initial_state, []
    for index_t, d_t, x_t in zip(index.long().unbind(1), d.unbind(1), x.unbind(1), strict=True):
        moved = d_t * h
        h = torch.zeros_like(moved).scatter_add(-1, index_t, moved) + x_t
        states.append(h)
    return torch.stack(states, dim=1), h
