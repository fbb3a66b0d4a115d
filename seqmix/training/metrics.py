"""Accuracy and bits per byte, as counts that add up over batches and ranks."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["Bound", "Counts", "total_loss"]


class Counts:
    """Sums over batches: loss, positions, last positions, sequences. Sequences without any target do not count.

    The last position of a sequence is the last one that has a target. With `macro` also MAD's accuracy: in each batch
    the mean, over the classes that are a target or an answer there, of the share of a class's targets that are
    answered right; batches weigh as many rows as they have. Of text, whose bytes come with its batches, there are bits
    per byte instead of last positions and whole sequences.
    """

    def __init__(self, device: torch.device, *, macro: bool = False) -> None:
        self.macro = macro
        # loss, right positions, positions, right last positions, right sequences, sequences, balanced share x rows,
        # bytes
        self.sums = torch.zeros(8, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)
        self._text = False

    def add(
        self, logits: Tensor, targets: Tensor, cu_seqlens: Tensor | None = None, n_bytes: Tensor | None = None
    ) -> None:
        """Add a batch: logits (B, T, V), targets (B, T), packed sequences with their bounds (S + 1,).

        `n_bytes` (B, T) are those of the text that each target stands for.
        """
        self.add_answers(logits.argmax(-1), targets, cu_seqlens, total_loss(logits, targets), n_bytes)

    def add_answers(
        self,
        answers: Tensor,
        targets: Tensor,
        cu_seqlens: Tensor | None = None,
        loss: Tensor | None = None,
        n_bytes: Tensor | None = None,
    ) -> None:
        """Add answers (B, T), with their loss if they have one."""
        self._add(answers, targets, cu_seqlens, torch.zeros((), device=targets.device) if loss is None else loss)
        if n_bytes is not None:
            self._text = True
            self.sums[-1] += n_bytes.sum()

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
        self.sums[:-1] += torch.stack([count.to(self.sums.dtype) for count in counts])

    def rates(self, strategy: Any) -> dict[str, Tensor]:
        """Over all ranks of a Lightning strategy: `loss`, `token_accuracy`, `last_accuracy` and `sequence_accuracy`.

        With `macro` also `macro_accuracy`. Of text `loss`, `token_accuracy`, `bits_per_byte` (loss in nats * tokens /
        (bytes * ln 2)) and `perplexity`.
        """
        sums = strategy.reduce(self.sums, reduce_op="sum")
        loss, right, positions, last, whole, rows, balanced, n_bytes = sums.unbind()
        positions, rows = positions.clamp_min(1), rows.clamp_min(1)
        if self._text:
            return {
                "loss": (loss / positions).float(),
                "token_accuracy": (right / positions).float(),
                "bits_per_byte": (loss / (n_bytes.clamp_min(1) * math.log(2))).float(),
                "perplexity": (loss / positions).exp().float(),
            }
        rates = {
            "loss": (loss / positions).float(),
            "token_accuracy": (right / positions).float(),
            "last_accuracy": (last / rows).float(),
            "sequence_accuracy": (whole / rows).float(),
        }
        return rates | ({"macro_accuracy": (balanced / rows).float()} if self.macro else {})


class Bound:
    """Sums over batches of a bound on the negative log-likelihood of text: nats, tokens, bytes."""

    def __init__(self, device: torch.device) -> None:
        self.sums = torch.zeros(3, dtype=torch.float64 if device.type != "mps" else torch.float32, device=device)

    def add(self, loss: Tensor, n_tokens: Tensor, n_bytes: Tensor) -> None:
        """Add a batch."""
        self.sums += torch.stack([value.to(self.sums.dtype) for value in (loss, n_tokens, n_bytes)])

    def rates(self, strategy: Any) -> dict[str, Tensor]:
        """Over all ranks of a Lightning strategy: `loss`, nats a token, and `bits_per_byte_bound`."""
        loss, tokens, n_bytes = strategy.reduce(self.sums, reduce_op="sum").unbind()
        bits = loss / (n_bytes.clamp_min(1) * math.log(2))
        return {"loss": (loss / tokens.clamp_min(1)).float(), "bits_per_byte_bound": bits.float()}


def total_loss(logits: Tensor, targets: Tensor) -> Tensor:
    """The sum over positions with a target, in float32."""
    return F.cross_entropy(logits.flatten(0, 1).float(), targets.flatten(), reduction="sum")


def _balanced(answers: Tensor, targets: Tensor) -> Tensor:
    """torchmetrics' multi-class accuracy with its default average, `macro`; answers and targets (n,)."""
    if not len(targets):
        return targets.new_zeros(())
    n_classes = int(torch.stack([answers.max(), targets.max()]).max()) + 1
    asked, given = (torch.bincount(each, minlength=n_classes) for each in (targets, answers))
    right = torch.bincount(targets[answers == targets], minlength=n_classes)
    return (right / asked.clamp_min(1)).sum() / ((asked + given) > 0).sum()
