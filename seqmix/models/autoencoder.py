"""The head of MAD's compression task (Poli et al. 2024, 2403.17844): all tokens again, from the last vector alone.

With z the last vector of the sequence and c_t the sine-cosine code of position t,

    u_t = gelu(W_2 norm(gelu(W_1 norm(z + c_t))))        the decoder keeps the width and is the same for every mixer
    logits_t = W_out norm(u_t)

so that whatever is said about the input has gone through z.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import gelu

from seqmix.models import _spans

__all__ = ["AutoencoderHead"]


class AutoencoderHead(nn.Module):
    """Vectors x (B, T, d_model) to logits (B, T, vocab_size) of every position, from the last vector of each sequence.

    Norms are layer norms without bias, as in the blocks (MAD: RMS norms).

    Args:
        d_model: width of the vectors, at least 4.
        vocab_size: number of tokens.

    Raises:
        ValueError: a width too small for the position code.
    """

    def __init__(
        self,
        d_model: int,
        vocab_size: int,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        if d_model < 4:
            raise ValueError(f"head 'autoencoder': d_model must be at least 4 for the position code, got {d_model}")
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.norms = nn.ModuleList(nn.LayerNorm(d_model, bias=False, **like) for _ in range(3))
        self.layers = nn.ModuleList(nn.Linear(d_model, d_model, **like) for _ in range(2))
        self.proj = nn.Linear(d_model, vocab_size, **like)

    def init_weights(self, std: float) -> None:
        """N(0, std), biases zero."""
        for layer in (*self.layers, self.proj):
            nn.init.normal_(layer.weight, std=std)
            nn.init.zeros_(layer.bias)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        z = _spans.last(x, cu_seqlens, lengths)
        if cu_seqlens is None:
            position = torch.arange(x.shape[1], device=x.device)
        else:
            sequence, position = _spans.places(x, cu_seqlens)
            z = z[:, sequence]
        u = z + position_code(position, x.shape[-1]).to(x.dtype)
        for norm, layer in zip(self.norms, self.layers, strict=False):
            u = gelu(layer(norm(u)))
        return self.proj(self.norms[-1](u))


def position_code(position: Tensor, width: int) -> Tensor:
    """(T, width) float32: sines, then cosines, of t 10000^{-i / (width / 2 - 1)}; an odd width ends with zeros."""
    half = width // 2
    rates = torch.exp(torch.arange(half, device=position.device) * (-math.log(10_000) / (half - 1)))
    angles = position[:, None] * rates
    return nn.functional.pad(torch.cat((angles.sin(), angles.cos()), dim=-1), (0, width % 2))
