"""One answer for each sequence: pool over its positions, then a linear map to the classes."""

import torch
from torch import Tensor, nn

from seqmix._checks import positive
from seqmix.mixers.base import one_of
from seqmix.models import _spans

__all__ = ["ClassificationHead"]


class ClassificationHead(nn.Module):
    """Vectors x (B, T, d_model) to the logits (B, 1, n_classes) of one answer for each sequence, packed (1, S, ...).

    Args:
        d_model: width of the vectors.
        n_classes: number of answers.
        pooling: `"mean"` over the positions of a sequence, or the `"last"` of them; padding never counts.

    Raises:
        ValueError: fewer than one class, an unknown pooling.
    """

    def __init__(
        self,
        d_model: int,
        n_classes: int,
        pooling: str = "mean",
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.n_classes = positive("head 'classification'", "n_classes", n_classes)
        self.pooling = one_of("head 'classification'", "pooling", pooling, ("mean", "last"))
        self.proj = nn.Linear(d_model, n_classes, device=device, dtype=dtype)

    def init_weights(self, std: float) -> None:
        """N(0, std), no preference for a class."""
        nn.init.normal_(self.proj.weight, std=std)
        nn.init.zeros_(self.proj.bias)

    def forward(self, x: Tensor, cu_seqlens: Tensor | None = None, lengths: Tensor | None = None) -> Tensor:
        pool = _spans.mean if self.pooling == "mean" else _spans.last
        return self.proj(pool(x, cu_seqlens, lengths))
