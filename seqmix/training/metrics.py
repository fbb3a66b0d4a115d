"""Accuracy by position, by last position and by whole sequence, as counts that add up over batches and ranks."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Counts"]


class Counts:
    """Sums over (logits, targets): loss, positions, last positions, sequences. Rows without any target do not count.

    The last position of a row is the last one that has a target.
    """

    def __init__(self, device: torch.device) -> None:
        # loss, right positions, positions, right last positions, right sequences, sequences
        self.sums = torch.zeros(6, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)

    def add(self, logits: Tensor, targets: Tensor) -> None:
        """Add a batch: logits (B, T, V), targets (B, T)."""
        scored = targets != -100
        right = (logits.argmax(-1) == targets) & scored
        rows = scored.any(1)
        positions = torch.arange(targets.shape[1], device=targets.device)
        last = torch.where(scored, positions, -1).amax(1, keepdim=True).clamp_min(0)
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
        counts = (
            loss,
            right.sum(),
            scored.sum(),
            right.gather(1, last).sum(),
            ((right | ~scored).all(1) & rows).sum(),
            rows.sum(),
        )
        self.sums += torch.stack([count.to(self.sums.dtype) for count in counts])

    def rates(self, strategy: Any) -> dict[str, Tensor]:
        """`loss`, `token_accuracy`, `last_accuracy` and `sequence_accuracy` over all ranks of a Lightning strategy."""
        loss, right, positions, last, whole, rows = strategy.reduce(self.sums, reduce_op="sum").unbind()
        positions, rows = positions.clamp_min(1), rows.clamp_min(1)
        return {
            "loss": (loss / positions).float(),
            "token_accuracy": (right / positions).float(),
            "last_accuracy": (last / rows).float(),
            "sequence_accuracy": (whole / rows).float(),
        }
