"""Sequences cut over ranks: rank r holds the tokens o_r .. o_{r+1} of every sequence, for all layers.

A mixer's contract is all that is needed: its state is handed on. In layer l, with s_r^l the state after rank r,

    y_r^l, s_r^l = mixer^l(x_r^l, s_{r-1}^l)        s_{-1}^l the initial state

and the gradient of s_r^l comes back from rank r + 1. Rank r begins layer l when rank r - 1 has finished it, and goes on
with layer l + 1 while rank r + 1 has l: a pipeline. R ranks and L layers take L + R - 1 turns instead of R L, so that
they are at most R L / (L + R - 1) times as fast as one; each holds the activations of T / R tokens. Everything but the
mixers acts on each token alone.
"""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from seqmix.distributed.messages import Neighbours, receive, send
from seqmix.distributed.split import refuse
from seqmix.mixers import TokenMixer

__all__ = ["Handing"]


class Handing:
    """The forward method of a mixer between two ranks."""

    def __init__(self, mixer: TokenMixer, neighbours: Neighbours) -> None:
        self.plain, self.init_state, self.neighbours = mixer.forward, mixer.init_state, neighbours

    @torch.compiler.disable
    def __call__(
        self, x: Tensor, state: Any | None = None, *, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        refuse(state, lengths)
        if cu_seqlens is not None:
            return self._packed(x, cu_seqlens)
        x, state = self._before(x, len(x))
        y, state = self.plain(x, state)
        return self._after(y, state), state

    def _packed(self, x: Tensor, cu_seqlens: Tensor) -> tuple[Tensor, Any]:
        """The first sequence goes on where the rank before ended, alone, as its state may have grown."""
        first, length = int(cu_seqlens[1]), x.shape[1]
        x, state = self._before(x, 1)
        parts = []
        if first:
            y, state = self.plain(x[:, :first], state)
            parts.append(y)
        if first < length:
            y, states = self.plain(x[:, first:], cu_seqlens=cu_seqlens[1:] - first)
            parts.append(y)
            state = states.select(-1)
        return self._after(torch.cat(parts, 1), state), state

    def _before(self, x: Tensor, sequences: int) -> tuple[Tensor, Any]:
        state = self.init_state(sequences, device=x.device, dtype=x.dtype)
        if self.neighbours.first:
            return x, state
        like, structure = pytree.tree_flatten(state)
        x, leaves = receive(x, like, self.neighbours)
        return x, pytree.tree_unflatten(leaves, structure)

    def _after(self, y: Tensor, state: Any) -> Tensor:
        if self.neighbours.last:
            return y
        return send(y, pytree.tree_leaves(state), self.neighbours)
