"""Where sequences begin, for layers that treat a first token in another way: their states count tokens."""

import torch
from torch import Tensor


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
