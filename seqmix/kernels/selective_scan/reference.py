"""The selective scan as a plain loop over time; the truth that every kernel is held to."""

import torch
from torch import Tensor


def selective_scan(
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    signed: bool = False,
    *,
    initial_state: Tensor,
) -> tuple[Tensor, Tensor]:
    """s_t = a_t s_{t-1} + dt_t x_t B_t, y_t = s_t C_t + D x_t with a_t = e^{dt_t A}, signed: 2 e^{dt_t A} - 1.

    Shapes: x, dt (B, T, D), A (D, N), B, C (B, T, N), D (D,), initial_state (B, D, N); returns y (B, T, D) and
    s_T (B, D, N).
    """
    s, outputs = initial_state, []
    for x_t, dt_t, B_t, C_t in zip(*(u.unbind(1) for u in (x, dt, B, C)), strict=True):
        a_t = torch.exp(dt_t[..., None] * A)
        if signed:
            a_t = 2 * a_t - 1
        s = a_t * s + (dt_t * x_t)[..., None] * B_t[:, None]
        outputs.append((s * C_t[:, None]).sum(-1))
    y = torch.stack(outputs, dim=1)
    return (y if D is None else y + D * x), s
