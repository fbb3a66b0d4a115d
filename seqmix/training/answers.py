"""What a model answers and what a task asks: losses, answers that feed on themselves, and whether the two fit."""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.models import ClassificationHead, SequenceModel
from seqmix.tasks.asked import asked_of

__all__ = ["check_answers", "cross_entropy", "free_running_answers"]


def check_answers(model: SequenceModel, task: Any) -> None:
    """`ValueError` unless the model's head gives the answers that the task asks for.

    A task with `n_classes` asks for one answer to a sequence; one whose targets are the tokens to come says so with
    `predicts_next`, and they must not be seen; one whose targets are the tokens themselves says so with `reconstructs`,
    and they must have gone through one vector.
    """
    name, head, says = type(task).__name__, model.head, asked_of(task)
    asked = says.n_classes
    given = head.n_classes if isinstance(head, ClassificationHead) else None
    if asked is not None and given is None:
        raise ValueError(
            f"model.head: {name} asks for one of {asked} classes, expected {{name: classification, n_classes: {asked}}}"
            f", got {model.head_name!r}"
        )
    if asked is not None and given is not None and asked > given:
        raise ValueError(f"model.head: n_classes must be at least the {asked} classes of {name}, got {given}")
    if asked is None and given is not None:
        raise ValueError(f"model.head: {name} asks for an answer at each position, got {model.head_name!r}")
    if task.vocab_size > model.vocab_size:
        raise ValueError(
            f"model.vocab_size: must be at least the {task.vocab_size} tokens of {name}, got {model.vocab_size}"
        )
    if says.reconstructs and model.head_name != "autoencoder":
        raise ValueError(
            f"model.head: {name} asks for its own input again, expected 'autoencoder', got {model.head_name!r}"
        )
    if model.bidirectional and says.predicts_next:
        raise ValueError(f"model.bidirectional: must be false, the targets of {name} are tokens to come")


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean over the positions (B, T) that have a target, in float32 or float64; 0 where none has one."""
    logits = logits.flatten(0, 1)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return F.cross_entropy(logits, targets.flatten(), reduction="sum") / (targets != -100).sum().clamp_min(1)


def free_running_answers(model: SequenceModel, tokens: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """The most likely answers (B, n) where each is the next input, and their targets (B, n).

    tokens and targets are (B, T); the answer is every position from the first that has a target in any row.
    """
    first = int((targets != -100).any(0).to(torch.int64).argmax())
    n = targets.shape[1] - first
    answered = model.generate(tokens[:, : first + 1], n, temperature=0)
    return answered[:, first + 1 :], targets[:, first:]
