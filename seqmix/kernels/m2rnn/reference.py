"""The recurrence of M2RNN as a plain loop over time; the truth that the kernel is held to."""

from typing import Any

import torch
from torch import Tensor


class _Clip(torch.autograd.Function):
    """The identity, whose gradient is cut to [-bound, bound]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, bound: float) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, float], output: Tensor) -> None:
        ctx.bound = inputs[1]

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return gradient.clamp(-ctx.bound, ctx.bound), None


def m2rnn(
    q: Tensor, k: Tensor, v: Tensor, f: Tensor, state: Tensor, W: Tensor, clip: float | None
) -> tuple[Tensor, Tensor]:
    """o (B, T, H, V) and the last state (B, H, K, V).

    Shapes: q, k (B, T, H, K), v (B, T, H, V), f (B, T, H), state (B, H, K, V), W (H, V, V).
    """
    rows = []
    for q_t, k_t, v_t, f_t in zip(q.unbind(1), k.unbind(1), v.unbind(1), f[..., None, None].unbind(1), strict=True):
        Z = (state @ W + k_t.unsqueeze(-1) * v_t.unsqueeze(-2)).tanh()
        state = f_t * state + (1 - f_t) * Z
        state = state if clip is None else _Clip.apply(state, clip)
        rows.append((q_t.unsqueeze(-2) @ state).squeeze(-2))
    return torch.stack(rows, 1), state
