"""The recurrent state of a model, in the box that `generate` hands from step to step."""

from collections.abc import Callable
from typing import Any

from torch import Tensor
from transformers.cache_utils import Cache

from seqmix.mixers.state import map_state
from seqmix.models import SequenceModelState

__all__ = ["SeqmixCache"]


class SeqmixCache(Cache):
    """A `SequenceModelState` (None before the first token) and how many columns were read, padding among them.

    It has no layers of keys and values: what transformers asks of those is answered here. It cannot be cropped, so
    assisted decoding refuses it by name.
    """

    def __init__(self, state: SequenceModelState | None = None, columns: int = 0) -> None:
        super().__init__(layers=[])
        self.state, self.columns = state, columns

    def __repr__(self) -> str:
        return f"SeqmixCache(state={self.state!r}, columns={self.columns})"

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns read, by which transformers cuts off what was fed already."""
        return self.columns

    def get_max_length(self, layer_idx: int | None = None) -> int:
        return -1  # none

    @property
    def is_linear(self) -> list[bool]:
        """Not empty, for `all([])` is true, and ids that were read would be fed again."""
        return [False]

    @property
    def is_initialized(self) -> bool:
        return self.state is not None

    @property
    def is_compileable(self) -> bool:
        return False

    @property
    def is_croppable(self) -> bool:
        return False

    def _each(self, function: Callable[[Tensor], Tensor]) -> None:
        if self.state is not None:
            self.state = map_state(function, self.state)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Row i goes on from what was row `beam_idx[i]`."""
        self.batch_select_indices(beam_idx)

    def batch_select_indices(self, indices: Any) -> None:
        if self.state is not None:
            self.state = self.state.select(indices)  # type: ignore[attr-defined]

    def batch_repeat_interleave(self, repeats: int) -> None:
        self._each(lambda leaf: leaf.repeat_interleave(repeats, 0))

    def crop(self, tokens_to_remove: int) -> None:
        raise NotImplementedError("SeqmixCache: a recurrent state cannot forget its last tokens, so it has no crop")

    def reset(self) -> None:
        self.state, self.columns = None, 0
