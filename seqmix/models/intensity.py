"""Tokens that are numbers, such as grey levels: a linear map of their value instead of a vector for each."""

import torch
from torch import Tensor, nn

from seqmix._checks import positive

__all__ = ["IntensityEmbedding"]


class IntensityEmbedding(nn.Module):
    """Token v < n_levels to o + s v / (n_levels - 1), the others (a mask, padding) to vectors of their own.

    So a pixel enters as the real number that it is, and batches stay whole numbers: hashed, masked and packed as text.

    Args:
        vocab_size: number of tokens.
        d_model: width of the vectors.
        n_levels: tokens 0 .. n_levels - 1 are numbers.

    Shapes: tokens (B, T) to (B, T, d_model); `weight` has the rows s, o and one for each token that is no number.

    Raises:
        ValueError: `n_levels` outside [2, vocab_size].
    """

    _no_weight_decay = ("weight",)

    def __init__(
        self,
        vocab_size: int,
        d_model: int,
        n_levels: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.n_levels = positive("embedding 'intensity'", "n_levels", n_levels)
        if not 2 <= n_levels <= vocab_size:
            raise ValueError(
                f"embedding 'intensity': n_levels must be in [2, vocab_size = {vocab_size}], got {n_levels}"
            )
        self.weight = nn.Parameter(torch.empty(2 + vocab_size - n_levels, d_model, device=device, dtype=dtype))

    def forward(self, tokens: Tensor) -> Tensor:
        slope, offset = self.weight[:2]
        number = (tokens.clamp_max(self.n_levels - 1).to(slope.dtype) / (self.n_levels - 1)).unsqueeze(-1)
        vector = offset + slope * number
        if len(self.weight) == 2:
            return vector
        other = self.weight[(tokens - self.n_levels + 2).clamp_min(0)]
        return torch.where((tokens < self.n_levels).unsqueeze(-1), vector, other)
