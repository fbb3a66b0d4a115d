"""The recurrence of the sLSTM as a plain loop over time; the truth that the kernel is held to."""

import math

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid


def slstm(p: Tensor, state: Tensor, R: Tensor) -> tuple[Tensor, Tensor]:
    """h (B, T, H, N) and the last state (B, 4, H, N), rows h, c, n, m, for p (B, T, H, 4, N) and R (H, N, 4, N).

    Gates in the order i, f, z, o. A unit with n = 0 has not begun: its m is not looked at.
    """
    (h, c, n, m), rows = state.unbind(1), []
    for p_t in p.unbind(1):
        i, f, z, o = (p_t + torch.einsum("bhk,hkgn->bhgn", h, R)).unbind(-2)
        kept, begun = logsigmoid(f) + m, n != 0
        m = torch.where(begun, torch.maximum(kept, i), i)
        forget, write = torch.where(begun, kept - m, -math.inf).exp(), (i - m).exp()
        c, n = forget * c + write * z.tanh(), forget * n + write
        h = o.sigmoid() * c / n
        rows.append(h)
    return torch.stack(rows, 1), torch.stack((h, c, n, m), 1)
