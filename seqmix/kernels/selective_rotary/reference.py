"""The selective rotation as a plain loop over time; the truth that every kernel is held to."""

import math

import torch
from torch import Tensor


def selective_rotary(
    q: Tensor, k: Tensor, increment: Tensor, *, initial_state: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Theta_t = Theta_{t-1} + omega_t modulo one turn; the pairs (i, i + K/2) of q_t and k_t turn by Theta_t.

    Shapes: q, k (B, T, H, K), increment omega (B, T, H, K/2), initial_state Theta_0 (B, H, K/2); returns the turned
    (q, k) and Theta_T in [-pi, pi].
    """
    # In double precision where the device has it: a sum in float32 drifts.
    wide = torch.float32 if q.device.type == "mps" else torch.float64
    theta, angles = initial_state.to(wide), []
    for omega_t in increment.to(wide).unbind(1):
        theta = theta + omega_t
        theta = theta - 2 * math.pi * (theta / (2 * math.pi)).detach().round()
        angles.append(theta)
    angle = torch.stack(angles, dim=1).to(q.dtype)
    cos, sin = angle.cos(), angle.sin()
    turned_q, turned_k = (
        torch.cat((x0 * cos - x1 * sin, x0 * sin + x1 * cos), dim=-1) for x0, x1 in (x.chunk(2, -1) for x in (q, k))
    )
    return (turned_q, turned_k), theta.to(initial_state.dtype)
