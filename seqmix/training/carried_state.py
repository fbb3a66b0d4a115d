"""States that go on from one batch to the next: truncated backpropagation through time."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils import _pytree as pytree

from seqmix.mixers.state import State, select
from seqmix.models import SequenceModel

__all__ = ["CarriedState"]


class CarriedState:
    """The model's state at the end of each row of the batch before, cut from its graph.

    Batches are packed; `carry_from` (S,) says of each sequence which row's state it starts from, -1 for a new one,
    and `carry_to` (rows,) which sequence ends each row. An optimizer may ask for the loss of a batch several times:
    all of them start from the same state, until `advance`.
    """

    def __init__(self) -> None:
        self.start: State | None = None
        self.end: State | None = None
        self._loaded: list[Tensor] | None = None

    def advance(self) -> None:
        """The next batch starts from where this one ended."""
        self.start = self.end

    def answer(self, model: SequenceModel, batch: dict[str, Tensor]) -> Tensor:
        """Logits for a batch from where the one before it ended."""
        begin = self._begin(model, batch["carry_from"])
        logits, end = model(batch["tokens"], begin, cu_seqlens=batch["cu_seqlens"])
        self.end = select(end, batch["carry_to"]).detach()
        return logits

    def _begin(self, model: SequenceModel, rows: Tensor) -> State:
        fresh = model.init_state(len(rows))
        if self._loaded is not None:
            self.start = pytree.tree_unflatten(self._loaded, pytree.tree_structure(fresh))
            self._loaded = None
        if self.start is None:
            return fresh

        def chosen(kept: Tensor, new: Tensor) -> Tensor:
            picked = kept.to(rows.device)[rows.clamp_min(0)]
            if picked.shape != new.shape:
                # Caches of keys fill up from their end; what precedes it is not looked at.
                new = F.pad(new, (*(0, 0) * (new.ndim - 2), picked.shape[1] - new.shape[1], 0))
            carried = (rows >= 0).view(-1, *(1,) * (new.ndim - 1))
            return torch.where(carried, picked, new.to(picked.dtype))

        return pytree.tree_map(chosen, self.start, fresh)

    def state_dict(self) -> dict[str, Any]:
        """The tensors of the state, without their structure, which is the model's."""
        leaves = self._loaded if self.end is None else pytree.tree_leaves(self.end)
        return {} if leaves is None else {"carried_state": leaves}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.start = self.end = None
        self._loaded = state.get("carried_state")
