"""Sequences of any lengths as rows of one flat tensor, so that a solver can drop those that are done.

Letters: S sequences, L rows (tokens of all sequences, one sequence after the other).
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from seqmix.kernels._checks import check_offsets


class Rows:
    """Where each of S sequences lies among L rows.

    Args:
        bounds: int64 offsets (S + 1,) of the sequences.
    """

    def __init__(self, bounds: Tensor) -> None:
        self.bounds = bounds
        self.lengths = bounds.diff()
        self.sequences = len(bounds) - 1
        self.sequence = torch.repeat_interleave(torch.arange(self.sequences, device=bounds.device), self.lengths)
        self.total = len(self.sequence)
        position = torch.arange(self.total, device=bounds.device)
        self.first = position == bounds[self.sequence]
        self.last = position + 1 == bounds[self.sequence + 1]

    @classmethod
    def of(cls, op: str, x: Tensor, cu_seqlens: Tensor | None) -> "Rows":
        """The rows of x (B, T, ...) flattened; raises `ValueError` for offsets that do not fit."""
        batch, length = x.shape[:2]
        if cu_seqlens is None:
            return cls(torch.arange(batch + 1, device=x.device) * length)
        check_offsets(op, cu_seqlens, length)
        return cls(cu_seqlens.long())

    @property
    def cu_seqlens(self) -> Tensor:
        """The offsets as the kernels take them."""
        return self.bounds.int()

    def previous(self, h: Tensor, initial: Tensor) -> Tensor:
        """h of the token before (L, ...), and `initial` (S, ...) before the first one."""
        shifted = torch.roll(h, 1, 0)
        shifted[self.first] = initial[self.sequence[self.first]]
        return shifted

    def following(self, v: Tensor, final: Tensor | None = None) -> Tensor:
        """v of the token after (L, ...), and `final` (S, ...) or zeros after the last one."""
        shifted = torch.roll(v, -1, 0)
        shifted[self.last] = 0 if final is None else final[self.sequence[self.last]]
        return shifted

    def end(self, h: Tensor, initial: Tensor) -> Tensor:
        """h of the last token of each sequence (S, ...), `initial` for an empty one."""
        final = initial.clone()
        final[self.sequence[self.last]] = h[self.last]
        return final

    def start(self, v: Tensor, otherwise: Tensor) -> Tensor:
        """v of the first token of each sequence (S, ...), `otherwise` for an empty one."""
        return Rows.end(self._swapped(), v, otherwise)

    def _swapped(self) -> "Rows":
        swapped = object.__new__(Rows)
        swapped.__dict__.update(self.__dict__, first=self.last, last=self.first)
        return swapped

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
        lengths = self.lengths.tolist()
        equal = len(set(lengths)) == 1
        for t in range(max(lengths, default=0)):
            alive = slice(None) if equal else (self.lengths > t).nonzero().squeeze(1)
            yield alive, (self.bounds[1:][alive] - 1 - t if backward else self.bounds[:-1][alive] + t)


def previous_token(h: Tensor, initial: Tensor, cu_seqlens: Tensor | None) -> Tensor:
    """h (B, T, D) of the token before, and `initial` (S, D) before the first: for graphs, which have no `Rows`."""
    initial = initial.to(h.dtype)
    if cu_seqlens is None:
        return torch.cat((initial.unsqueeze(1), h[:, :-1]), 1)
    position = torch.arange(h.shape[1], device=h.device, dtype=torch.int32)
    sequence = torch.searchsorted(cu_seqlens, position, right=True) - 1
    source = torch.where(cu_seqlens[sequence] == position, sequence, len(initial) + position - 1)
    return torch.cat((initial, h[0]))[source].unsqueeze(0)
