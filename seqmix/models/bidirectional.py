"""A mixer in both directions: y = f(x) + R b(R x), with R the reversal of each sequence and f, b causal mixers."""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqmix.mixers._padding import check_lengths
from seqmix.mixers.base import TokenMixer
from seqmix.mixers.state import mixer_state
from seqmix.models._spans import places

__all__ = ["Bidirectional", "BidirectionalState"]


@mixer_state
class BidirectionalState(NamedTuple):
    """Nothing: a sequence that was read from its end cannot be continued."""


class Bidirectional(TokenMixer):
    """Two mixers of one width, the second of which reads each sequence backwards; the sum of what they say.

    Each direction has weights of its own, so the parameters are those of two mixers. Padded sequences are reversed
    within their length, packed ones each in its place: what stands outside a sequence never reaches it.

    Args:
        ahead: reads x_1 .. x_T.
        back: reads x_T .. x_1.

    Shapes: x and y (B, T, d_model); `lengths` int64 (B,) of sequences padded at the end. There is no state.

    Raises:
        ValueError: mixers of different width, or a state.

    Example:
        >>> import torch
        >>> from seqmix import BDLRU
        >>> from seqmix.models import Bidirectional
        >>> y, _ = Bidirectional(BDLRU(8), BDLRU(8))(torch.randn(2, 5, 8))
        >>> y.shape
        torch.Size([2, 5, 8])
    """

    State = BidirectionalState

    def __init__(self, ahead: TokenMixer, back: TokenMixer) -> None:
        super().__init__(ahead.d_model)
        if back.d_model != ahead.d_model:
            raise ValueError(
                f"Bidirectional: back must have the width d_model = {ahead.d_model} of ahead, got {back.d_model}"
            )
        self.ahead, self.back = ahead, back

    def forward(
        self, x: Tensor, state: Any | None = None, *, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, BidirectionalState]:
        if state is not None and not isinstance(state, BidirectionalState):
            raise ValueError(f"Bidirectional: state must be None, got a {type(state).__name__}")
        check_lengths("Bidirectional", lengths, x, cu_seqlens)
        y, _ = self.ahead(x, cu_seqlens=cu_seqlens)
        order = _reversal(x, cu_seqlens, lengths)
        backwards, _ = self.back(x.gather(1, order.expand_as(x)), cu_seqlens=cu_seqlens)
        # The reversal is its own inverse.
        return y + backwards.gather(1, order.expand_as(backwards)), BidirectionalState()

    def step(self, x: Tensor, state: Any) -> tuple[Tensor, Any]:
        raise ValueError("Bidirectional: step needs a causal mixer: a token to come would change every output")

    def init_state(
        self, batch_size: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> BidirectionalState:
        return BidirectionalState()

    def state_size(self, sequence_length: int = 1) -> int:
        """What both directions keep while they read."""
        return self.ahead.state_size(sequence_length) + self.back.state_size(sequence_length)

    def diagnostics(self, x: Tensor) -> dict[str, Tensor]:
        """Those of the mixer that reads ahead."""
        return self.ahead.diagnostics(x)


def _reversal(x: Tensor, cu_seqlens: Tensor | None, lengths: Tensor | None) -> Tensor:
    # (B or 1, T, 1): the position that each position takes its vector from; padding keeps its own.
    time = torch.arange(x.shape[1], device=x.device)
    if cu_seqlens is not None:
        sequence, position = places(x, cu_seqlens)
        return (cu_seqlens[1:].long()[sequence] - 1 - position).view(1, -1, 1)
    if lengths is None:
        return time.flip(0).view(1, -1, 1).expand(x.shape[0], -1, 1)
    return torch.where(time < lengths[:, None], lengths[:, None] - 1 - time, time).unsqueeze(-1)
