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
from seqmix.distributed.split import Ranks, ranks_of
from seqmix.mixers import TokenMixer
from seqmix.models import SequenceModel
from seqmix.models.bidirectional import Bidirectional
from seqmix.models.norms import BatchNorm

__all__ = ["sequence_parallel"]


def sequence_parallel(model: SequenceModel, mesh: Ranks = None) -> SequenceModel:
    """`model`, changed in place: its calls take this rank's part of the sequences and hand states from rank to rank.

    All ranks call it with the parts that `split_sequences` gives, in the same order. Outputs are those of the part; the
    state that comes back is that after its last token, of the last sequence where sequences are packed. Gradients of
    parameters are those of the part's own outputs: summed over the ranks they are the whole's. Names of parameters and
    checkpoints stay as they are.

    Args:
        model: with weights that are equal on all ranks.
        mesh: of one dimension, or a group of processes; all of them unless given.

    Raises:
        ValueError: layers that read backwards, batch norms or a head that needs the whole sequence, a model that is cut
            already, or a mesh of several dimensions. When called: a state, or padded sequences.
        NotImplementedError: activation checkpointing, which would send states again in the backward pass.

    Example:
        >>> from seqmix.distributed import sequence_parallel, split_sequences
        >>> def losses(model, tokens, targets):  # on every rank, after init_process_group
        ...     logits, _ = sequence_parallel(model)(split_sequences(tokens)[0])
        ...     part, _ = split_sequences(targets)
        ...     return torch.nn.functional.cross_entropy(logits.flatten(0, 1), part.flatten(), reduction="sum")
    """
    neighbours = Neighbours(ranks_of(mesh))
    _check(model)
    for mixer in model.mixers:
        mixer.forward = _Handing(mixer, neighbours)  # type: ignore[method-assign]
    return model


def _check(model: SequenceModel) -> None:
    if not isinstance(model, SequenceModel):
        raise ValueError(f"model: expected a SequenceModel, got a {type(model).__name__}")
    if model.activation_checkpointing:
        raise NotImplementedError("sequence_parallel: activation checkpointing would send every state a second time")
    if model.head_name != "language":
        raise ValueError(f"model: expected an answer at each token, got head {model.head_name!r}, which needs them all")
    for name, module in model.named_modules():
        if isinstance(module, Bidirectional | BatchNorm):
            raise ValueError(f"model: expected layers that read forwards, token by token, got {name}: {module}")
        if isinstance(getattr(module, "forward", None), _Handing):
            raise ValueError("model: its sequences are cut over ranks already")


class _Handing:
    """The forward method of a mixer between two ranks."""

    def __init__(self, mixer: TokenMixer, neighbours: Neighbours) -> None:
        self.plain, self.init_state, self.neighbours = mixer.forward, mixer.init_state, neighbours

    def __call__(
        self, x: Tensor, state: Any | None = None, *, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Any]:
        if state is not None or lengths is not None:
            what = "a state" if state is not None else "lengths"
            raise ValueError(f"sequence_parallel: expected a part of whole or packed sequences, got {what}")
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
