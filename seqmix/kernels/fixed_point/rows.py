"""Sequences of any lengths as rows of one flat tensor, so that a solver can drop those that are done.

Letters: S sequences, L rows (tokens of all sequences, one sequence after the other).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from seqmix.kernels.checks import check_offsets


class Rows:
    """Where each of S sequences lies among L rows.

    Args:
        bounds: int64 offsets (S + 1,) of the sequences.
        total: L, where the caller knows it: to ask a GPU for it is to wait for it.
        length: that of every sequence, where they are known to be alike.

    Its methods, but for `select` and a `walk` over lengths that differ, look at no number on the host.
    """

    def __init__(self, bounds: Tensor, total: int | None = None, length: int | None = None) -> None:
        self.bounds, self.length = bounds, length
        self.lengths = bounds.diff()
        self.sequences = len(bounds) - 1
        numbers = torch.arange(self.sequences, device=bounds.device)
        self.sequence = torch.repeat_interleave(numbers, self.lengths, output_size=total)
        self.total = len(self.sequence)
        position = torch.arange(self.total, device=bounds.device)
        self.first = position == bounds[self.sequence]
        self.last = position + 1 == bounds[self.sequence + 1]
        # Where to look in the states of the sequences with the rows behind them.
        self._before = torch.where(self.first, self.sequence, self.sequences + position - 1)
        self._after = torch.where(self.last, self.sequence, self.sequences + position + 1)
        empty = self.lengths == 0
        self._start = torch.where(empty, numbers, self.sequences + bounds[:-1])
        self._end = torch.where(empty, numbers, self.sequences + bounds[1:] - 1)

    @classmethod
    def of(cls, op: str, x: Tensor, cu_seqlens: Tensor | None) -> "Rows":
        """The rows of x (B, T, ...) flattened; raises `ValueError` for offsets that do not fit."""
        batch, length = x.shape[:2]
        if cu_seqlens is None:
            return cls(torch.arange(batch + 1, device=x.device) * length, batch * length, length)
        if not cu_seqlens.is_cuda:
            check_offsets(op, cu_seqlens, length)
        return cls(cu_seqlens.long(), length)

    @property
    def cu_seqlens(self) -> Tensor:
        """The offsets as the kernels take them."""
        return self.bounds.int()

    def previous(self, h: Tensor, initial: Tensor) -> Tensor:
        """h of the token before (L, ...), and `initial` (S, ...) before the first one."""
        return torch.cat((initial, h))[self._before]

    def following(self, v: Tensor, final: Tensor | None = None) -> Tensor:
        """v of the token after (L, ...), and `final` (S, ...) or zeros after the last one."""
        final = v.new_zeros(self.sequences, *v.shape[1:]) if final is None else final
        return torch.cat((final, v))[self._after]

    def end(self, h: Tensor, initial: Tensor) -> Tensor:
        """h of the last token of each sequence (S, ...), `initial` for an empty one."""
        return torch.cat((initial, h))[self._end]

    def start(self, v: Tensor, otherwise: Tensor) -> Tensor:
        """v of the first token of each sequence (S, ...), `otherwise` for an empty one."""
        return torch.cat((otherwise, v))[self._start]

    def add_at_end(self, x: Tensor, more: Tensor) -> Tensor:
        """x (L, ...) with `more` (S, ...) added to the last token of each sequence."""
        last = self.last.view(-1, *[1] * (x.ndim - 1))
        return torch.where(last, x + more[self.sequence], x)

    def largest(self, x: Tensor) -> Tensor:
        """The largest |x| in each sequence (S,); infinity where there is a NaN, 0 for an empty one."""
        values = x.abs().flatten(1).amax(1).nan_to_num(nan=torch.inf, posinf=torch.inf)
        return values.new_zeros(self.sequences).scatter_reduce_(0, self.sequence, values, "amax")

    def select(self, ids: Tensor) -> tuple[Tensor, "Rows"]:
        """The row numbers of the sequences `ids`, and their own `Rows`."""
        lengths = self.lengths[ids]
        chosen = Rows(torch.cat((lengths.new_zeros(1), lengths.cumsum(0))))
        within = torch.arange(chosen.total, device=ids.device) - chosen.bounds[chosen.sequence]
        return self.bounds[ids][chosen.sequence] + within, chosen

    def walk(self, backward: bool = False) -> Iterator[tuple[Tensor | slice, Tensor]]:
        """For every step in time: the sequences that have a token there, and the rows of those tokens.

        Backward, all sequences end together: step 0 is the last token of each.
        """
        lengths = self.lengths.tolist() if self.length is None else [self.length]
        equal = len(set(lengths)) == 1
        for t in range(max(lengths, default=0)):
            alive = slice(None) if equal else (self.lengths > t).nonzero().squeeze(1)
            yield alive, (self.bounds[1:][alive] - 1 - t if backward else self.bounds[:-1][alive] + t)


def previous_token(h: Tensor, initial: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """h (B, T, D) of the token before, and `initial` (S, D) before the first: for graphs, which have no `Rows`."""
    initial = initial.to(h.dtype)
    if cu_seqlens is None:
        # One row too many and without it again: a slice of T - 1 rows would ask torch.export whether that is one.
        return torch.cat((initial.unsqueeze(1), h), 1)[:, : h.shape[1]]
    position = torch.arange(h.shape[1], device=h.device, dtype=torch.int32)
    sequence = torch.searchsorted(cu_seqlens, position, right=True) - 1
    source = torch.where(cu_seqlens[sequence] == position, sequence, len(initial) + position - 1)
    return torch.cat((initial, h[0]))[source].unsqueeze(0)
