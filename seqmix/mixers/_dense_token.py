"""A token of FP-Mamba as a linear map of state and value: its gates and the deviation of its norm are what they are at
the fixed point.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import silu

from seqmix.kernels import selective_scan
from seqmix.kernels.fixed_point.rows import previous_token
from seqmix.kernels.fixed_point.selective_scan.cell import norm
from seqmix.mixers.forms import Recurrence

if TYPE_CHECKING:
    from seqmix.mixers.fp_mamba import FixedPointMamba

__all__ = ["dense_form"]


def dense_form(layer: "FixedPointMamba", x: Tensor) -> Recurrence:
    """Values u_t (d_inner,) and one, states s_t (d_inner N,), read is y_t, all in one block.

    With G_t = diag(w / deviation) (I - mean), E_t = e^{dt A} and the gain dt b.c + D, a token is
    y = G (c E s_{t-1} + gain x) + bias, x = Q u + K y, s_t = E s_{t-1} + dt x b^T. A_t is formed when it is asked for,
    since it has (d_inner N)^2 entries. The bias of the norm is what a last value, one, is mapped to.
    """
    state = layer.init_state(len(x), device=x.device, dtype=x.dtype)
    y, z, _, _ = layer.solve(x, state, None)
    inputs, _, _ = layer.inputs(x, state.conv, None)
    u, dt, D, n = inputs.u, inputs.dt, inputs.u.shape[-1], layer.d_state
    g = layer.cell.gates(inputs.p, inputs.weight, previous_token(y, state.y, None))
    o, _ = selective_scan(layer.cell.mixed(g, u, y), dt, inputs.A, g.b, g.c, inputs.D)
    inverse = norm(o, inputs.norm).inverse
    eye = torch.eye(D, dtype=u.dtype, device=u.device)
    K = layer.cell.mixing.dense(g.factors)
    G = inputs.norm[0][:, None] * inverse.unsqueeze(-1) * (eye - 1 / D)
    gain = layer.cell.gain(g, dt, inputs.D)
    # y = Y (c E s + gain Q u)
    Y = torch.linalg.solve_ex(eye - G * gain.unsqueeze(-2) @ K, G)[0]
    skip = Y * gain.unsqueeze(-2) @ (eye - K)
    mixed = eye - K + K @ skip
    values = u
    if layer.norm_bias is not None:
        # y for u = 0 and s = 0
        constant = inputs.norm[1] + (Y * gain.unsqueeze(-2) @ K) @ inputs.norm[1]
        values = torch.cat((u, torch.ones_like(u[..., :1])), -1)
        skip = torch.cat((skip, constant.unsqueeze(-1)), -1)
        mixed = torch.cat((mixed, K @ constant.unsqueeze(-1)), -1)
    kept = (dt.unsqueeze(-1) * inputs.A).exp()  # E (B, T, D, N)
    told = (g.c.unsqueeze(-2) * kept).flatten(-2)  # c E, (B, T, D N)
    wrote = dt.unsqueeze(-1) * g.b.unsqueeze(-2)  # (B, T, D, N)

    def spread(matrix: Tensor, weights: Tensor) -> Tensor:
        """(..., i, d) times weights (..., d N), as (..., i, d N)."""
        return matrix.repeat_interleave(n, -1) * weights.unsqueeze(-2)

    def raise_(matrix: Tensor, weights: Tensor) -> Tensor:
        """(..., d, j) as (..., d N, j), its rows times weights (..., d, N)."""
        return (weights.unsqueeze(-1) * matrix.unsqueeze(-2)).flatten(-3, -2)

    def transition(t: int) -> Tensor:
        through = raise_(spread((K @ Y)[:, t], told[:, t]), wrote[:, t])
        return (through + torch.diag_embed(kept[:, t].flatten(-2))).unsqueeze(1)

    return Recurrence(
        values[:, :, None, :, None],
        lambda read: layer.out_proj((read.flatten(2) * silu(z)).to(x.dtype)),
        transition,
        raise_(mixed, wrote).unsqueeze(2),
        spread(Y, told).unsqueeze(2),
        skip.unsqueeze(2),
        early=True,
    )
