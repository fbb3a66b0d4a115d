"""One residual block: x + mixer(norm(x)), if asked for with a GLU on that branch, then x + mlp(norm(x))."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from seqmix.mixers.base import TokenMixer
from seqmix.mixers.state import State
from seqmix.models.norms import norm_of, normed

__all__ = ["GLU", "Block", "SwiGLU"]


def hidden_width(d_model: int, mlp_ratio: float) -> int:
    """Of an MLP `mlp_ratio` times as wide as the model, rounded up to a multiple of 8."""
    return 8 * math.ceil(round(mlp_ratio * d_model, 6) / 8)


class SwiGLU(nn.Module):
    """y = W_down (silu(W_gate x) * W_up x), x (..., d_model); Shazeer 2020, equation 6, without biases."""

    def __init__(
        self, d_model: int, d_hidden: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"bias": False, "device": device, "dtype": dtype}
        self.gate_up_proj = nn.Linear(d_model, 2 * d_hidden, **like)
        self.down_proj = nn.Linear(d_hidden, d_model, **like)

    def forward(self, x: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(x).chunk(2, dim=-1)
        return self.down_proj(F.silu(gate) * up)


class GLU(nn.Module):
    """y = (W z + b) * sigmoid(V z + c) with z = dropout(gelu(x)), x (..., d_model), as in the LRU's paper.

    Starts as flax's linear maps there: N(0, 1 / d_model), no bias.
    """

    def __init__(
        self,
        d_model: int,
        *,
        dropout: float = 0.0,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.proj = nn.Linear(d_model, 2 * d_model, device=device, dtype=dtype)
        nn.init.normal_(self.proj.weight, std=d_model**-0.5)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor) -> Tensor:
        return F.glu(self.proj(self.dropout(F.gelu(x))), -1)


class Block(nn.Module):
    """Pre-norm residual block around a mixer; x (B, T, d_model) and the mixer's state in and out.

    Args:
        mixer: the token mixer; its parameters are left as it made them.
        d_hidden: width of the SwiGLU; 0 for no MLP.
        dropout: probability, on both branches.
        norm: `"layer"` or `"batch"`.
        glu: whether a `GLU` follows the mixer, before its branch is added.
    """

    def __init__(
        self,
        mixer: TokenMixer,
        d_hidden: int,
        *,
        dropout: float = 0.0,
        norm: str = "layer",
        glu: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        like: dict[str, Any] = {"device": device, "dtype": dtype}
        self.mixer_norm = norm_of(norm, mixer.d_model, **like)
        self.mixer = mixer
        self.glu = GLU(mixer.d_model, dropout=dropout, **like) if glu else None
        self.mlp_norm = norm_of(norm, mixer.d_model, **like) if d_hidden else None
        self.mlp = SwiGLU(mixer.d_model, d_hidden, **like) if d_hidden else None
        self.dropout = nn.Dropout(dropout)

    def forward(
        self, x: Tensor, state: State | None = None, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, State]:
        # Mixers of others may not know the argument.
        padded = {} if lengths is None else {"lengths": lengths}
        y, state = self.mixer(normed(self.mixer_norm, x, lengths), state, cu_seqlens=cu_seqlens, **padded)
        x = x + self.dropout(y if self.glu is None else self.glu(y))
        if self.mlp is not None and self.mlp_norm is not None:
            x = x + self.dropout(self.mlp(normed(self.mlp_norm, x, lengths)))
        return x, state
