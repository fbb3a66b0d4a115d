"""How parameters begin, and where sequences do, for layers that treat a first token in another way."""

import math

import torch
from torch import Tensor


def log_uniform(u: Tensor, low: float, high: float) -> Tensor:
    """Logarithms of steps between `low` and `high`, evenly for u in [0, 1)."""
    return math.log(low) + u * math.log(high / low)


def step_bias(u: Tensor, low: float = 1e-3, high: float = 0.1) -> Tensor:
    """What softplus maps to such steps, none below 1e-4."""
    dt = log_uniform(u, low, high).exp().clamp_min(1e-4)
    return dt + (-torch.expm1(-dt)).log()


def first_tokens(length: Tensor, time: int, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """Which of T = `time` tokens (S or 1, T) are the first of their sequences, and how many (S,) were read after them.

    `length` (S,), int64, says how many were read before.
    """
    t = torch.arange(time, device=length.device)
    if cu_seqlens is None:
        return (t == 0) & (length == 0)[:, None], length + time
    # Offsets that end too early are told by the op that follows.
    sequence = torch.bucketize(t, cu_seqlens[1:], right=True).clamp_max(len(length) - 1)
    first = (t == cu_seqlens[sequence]) & (length == 0)[sequence]
    return first.unsqueeze(0), length + cu_seqlens.diff()
