"""Sequences with one token more, in front or behind: what a layer needs whose tokens see the one before them."""

import torch
from torch import Tensor

from seqmix.kernels._handing import handed_on


@handed_on
def token_before(x: Tensor, *, initial_state: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """x (B, T, D), what comes before each of its sequences (S, 1, D), and before what follows them.

    An op, since what comes before may be on another rank, whose gradient then comes back through x.
    """
    if cu_seqlens is None:
        return x, initial_state, x[:, -1:]
    ends = (cu_seqlens[1:].long() - 1).clamp_min(0)  # of empty sequences some other token
    newest = x.index_select(1, ends).transpose(0, 1)  # (S, 1, D)
    return x, initial_state, torch.where((cu_seqlens.diff() > 0)[:, None, None], newest, initial_state)


class OneMore:
    """Places of the tokens of sequences, a batch (B, T, ...) or packed in one row (1, T, ...), that grow by one each.

    `cu_seqlens` are the offsets of the longer ones. An empty sequence has that one token then.
    """

    def __init__(self, time: int, cu_seqlens: Tensor | None) -> None:
        self.cu_seqlens = cu_seqlens
        if cu_seqlens is not None:
            t = torch.arange(time, device=cu_seqlens.device)
            moved = torch.arange(len(cu_seqlens), device=cu_seqlens.device, dtype=cu_seqlens.dtype)  # (S + 1,)
            self.cu_seqlens = cu_seqlens + moved
            self._first, self._last = self.cu_seqlens[:-1].long(), self.cu_seqlens[1:].long() - 1  # (S,)
            self._place = t + torch.bucketize(t, cu_seqlens[1:], right=True)  # (T,), with a token behind

    def before(self, x: Tensor, first: Tensor) -> Tensor:
        """x (B, T, ...) with `first` (S, 1, ...) in front: (B, T + 1, ...), or (1, T + S, ...)."""
        if self.cu_seqlens is None:
            return torch.cat((first, x), dim=1)
        return self._spread(x, self._place + 1, first, self._first)

    def after(self, x: Tensor, last: Tensor) -> Tensor:
        """The same with `last` behind."""
        if self.cu_seqlens is None:
            return torch.cat((x, last), dim=1)
        return self._spread(x, self._place, last, self._last)

    def without_last(self, x: Tensor) -> Tensor:
        """Of the longer sequences all tokens but the last, (B, T, ...)."""
        return x[:, :-1] if self.cu_seqlens is None else x.index_select(1, self._place)

    def _spread(self, x: Tensor, place: Tensor, one: Tensor, where: Tensor) -> Tensor:
        longer = x.new_zeros(1, x.shape[1] + len(one), *x.shape[2:]).index_copy(1, place, x)
        return longer.index_copy(1, where, one.transpose(0, 1))
