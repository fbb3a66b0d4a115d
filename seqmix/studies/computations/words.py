"""Words over a group with any mixer and optimizer: NGN-M (2508.15071) beside descent with momentum.

One answer a letter; the length grows from 2 over the first half of the steps.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.models import SequenceModel
from seqmix.optim import create_optimizer
from seqmix.studies.computations._descent import descend
from seqmix.tasks.word_problem import WordProblemExamples

__all__ = ["run"]

_OPTIONS: dict[str, Any] = {"sgd": {"momentum": 0.9, "dampening": 0.9}, "adamw": {"betas": (0.9, 0.95)}}


def run(
    seed: int,
    group: str,
    length: int,
    mixer: Mapping[str, Any],
    optimizer: str,
    lr: float,
    steps: int = 300,
    d_model: int = 32,
    batch: int = 32,
) -> dict[str, float]:
    """`loss` in nats, at most that of a guess, and `accuracy` of what was not seen."""
    examples = WordProblemExamples(group)

    def measured(split: str, start: int, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        part = examples(seed=seed, split=split, start=start, count=count, length=length)
        logits, targets = model(part["tokens"])[0].flatten(0, 1), part["targets"].flatten()
        return F.cross_entropy(logits, targets), logits.argmax(-1)[targets >= 0], targets[targets >= 0]

    def loss_at(step: int) -> Tensor:
        return measured("train", step * batch, batch, min(length, 2 + 2 * step * (length - 2) // steps))[0]

    torch.manual_seed(seed)
    model = SequenceModel(mixer, examples.vocab_size, d_model, mlp_ratio=0)
    made = create_optimizer(optimizer, model, lr=lr, weight_decay=0.0, **_OPTIONS.get(optimizer, {}))
    descend(model, made, loss_at, steps=steps, schedule="cosine", warmup=steps // 20)
    with torch.no_grad():
        loss, found, expected = measured("test", 0, 360, length)
    guess = -math.log(examples.chance)
    return {
        "loss": min(float(loss), guess) if torch.isfinite(loss) else guess,
        "accuracy": float((found == expected).float().mean()),
    }
