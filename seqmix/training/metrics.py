"""Accuracy by position, by last position and by whole sequence, as counts that add up over batches and ranks."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Counts"]


class Counts:
    """Sums over batches: loss, positions, last positions, sequences. Sequences without any target do not count.

    The last position of a sequence is the last one that has a target. With `macro` also MAD's accuracy: in each batch
    the mean, over the classes that are a target or an answer there, of the share of a class's targets that are
    answered right; batches weigh as many rows as they have.
    """

    def __init__(self, device: torch.device, *, macro: bool = False) -> None:
        self.macro = macro
        # loss, right positions, positions, right last positions, right sequences, sequences, balanced share x rows
        self.sums = torch.zeros(7, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)

    def add(self, logits: Tensor, targets: Tensor, cu_seqlens: Tensor | None = None) -> None:
        """Add a batch: logits (B, T, V), targets (B, T), packed sequences with their bounds (S + 1,)."""
        loss = F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")
        self._add(logits.argmax(-1), targets, cu_seqlens, loss)

    def add_answers(self, answers: Tensor, targets: Tensor) -> None:
        """Add answers (B, T), which have no loss."""
        self._add(answers, targets, None, torch.zeros((), device=targets.device))

    def _add(self, answers: Tensor, targets: Tensor, cu_seqlens: Tensor | None, loss: Tensor) -> None:
        scored = targets != -100
        right = (answers == targets) & scored
        n_rows, length = targets.shape
        positions = torch.arange(length, device=targets.device).expand(n_rows, -1)
        if cu_seqlens is None:
            n, owner = n_rows, torch.arange(n_rows, device=targets.device).unsqueeze(1).expand(-1, length)
        else:
            n, owner = (
                len(cu_seqlens) - 1,
                torch.searchsorted(cu_seqlens[1:].long(), positions.contiguous(), right=True),
            )
        owner = owner.flatten()
        total, wrong = (torch.zeros(n, dtype=torch.int64, device=targets.device) for _ in range(2))
        total.index_add_(0, owner, scored.flatten().long())
        wrong.index_add_(0, owner, (scored & ~right).flatten().long())
        last = torch.full_like(total, -1)
        last.scatter_reduce_(0, owner, torch.where(scored, positions, -1).flatten(), "amax")
        counts = (
            loss,
            right.sum(),
            scored.sum(),
            (right & (positions == last[owner].view_as(positions))).sum(),
            ((wrong == 0) & (total > 0)).sum(),
            (total > 0).sum(),
            _balanced(answers[scored], targets[scored]) * (total > 0).sum() if self.macro else total.new_zeros(()),
        )
        self.sums += torch.stack([count.to(self.sums.dtype) for count in counts])

    def rates(self, strategy: Any) -> dict[str, Tensor]:
        """`loss`, `token_accuracy`, `last_accuracy` and `sequence_accuracy` over all ranks of a Lightning strategy.

        With `macro` also `macro_accuracy`.
        """
        loss, right, positions, last, whole, rows, balanced = strategy.reduce(self.sums, reduce_op="sum").unbind()
        positions, rows = positions.clamp_min(1), rows.clamp_min(1)
        rates = {
            "loss": (loss / positions).float(),
            "token_accuracy": (right / positions).float(),
            "last_accuracy": (last / rows).float(),
            "sequence_accuracy": (whole / rows).float(),
        }
        return rates | ({"macro_accuracy": (balanced / rows).float()} if self.macro else {})


def _balanced(answers: Tensor, targets: Tensor) -> Tensor:
    """torchmetrics' multi-class accuracy with its default average, `macro`; answers and targets (n,)."""
    if not len(targets):
        return targets.new_zeros(())
    n_classes = int(torch.stack([answers.max(), targets.max()]).max()) + 1
    asked, given = (torch.bincount(each, minlength=n_classes) for each in (targets, answers))
    right = torch.bincount(targets[answers == targets], minlength=n_classes)
    return (right / asked.clamp_min(1)).sum() / ((asked + given) > 0).sum()
