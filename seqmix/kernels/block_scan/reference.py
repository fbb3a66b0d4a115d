"""Block-diagonal recurrences as plain loops over time; the truth that every kernel is held to."""

import torch
from torch import Tensor


def block_scan(a: Tensor, x: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """h_t = A_t h_{t-1} + x_t for every block.

    Shapes: a (B, T, N, m, m), x (B, T, N, m), initial_state (B, N, m); returns h (B, T, N, m) and h_T (B, N, m).
    """
    h, states = initial_state, []
    for a_t, x_t in zip(a.unbind(1), x.unbind(1), strict=True):
        h = (a_t @ h.unsqueeze(-1)).squeeze(-1) + x_t
        states.append(h)
    return torch.stack(states, dim=1), h


def gated_block_scan(logits: Tensor, v: Tensor, initial_state: Tensor) -> tuple[Tensor, Tensor]:
    """[A_t, g_t] = softmax(logits_t) over each row's m + 1 slots, h_t = A_t h_{t-1} + g_t v_t.

    Shapes: logits (B, T, N, m, m + 1), input gate last; v (B, T, N, m); initial_state (B, N, m).
    """
    gates = logits.softmax(-1)
    return block_scan(gates[..., :-1], gates[..., -1] * v, initial_state)
