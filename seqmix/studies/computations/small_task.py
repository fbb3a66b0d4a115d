"""A small model on a task, with any mixer and optimizer: NGN-M (2508.15071) on parity, starts of LRU (2303.06349).

`A5`, `Z2` and so on are words over the group, one answer a letter, whose length grows from 2 over the first half of the
steps; `digits` pixels one after the other, each repeated until there are `length`, one answer after the last.
"""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.mixers import LRU
from seqmix.models import SequenceModel
from seqmix.optim import create_optimizer
from seqmix.studies.computations._descent import descend
from seqmix.tasks.digits import DigitsExamples
from seqmix.tasks.word_problem import WordProblemExamples

__all__ = ["run"]

_RING = {"r_min": 0.9, "r_max": 0.999}
_STARTS: dict[str, dict[str, float]] = {
    "": {},
    "disk": {},
    "ring": _RING,
    "phase": {**_RING, "max_phase": math.pi / 10},
}
_OPTIONS: dict[str, Any] = {"sgd": {"momentum": 0.9, "dampening": 0.9}, "adamw": {"betas": (0.9, 0.95)}}
_DIGITS = {"head": {"name": "classification", "n_classes": 10, "pooling": "last"},
           "embedding": {"name": "intensity", "n_levels": 17}}  # fmt: skip


def run(
    seed: int,
    task: str,
    length: int,
    mixer: Mapping[str, Any],
    optimizer: str,
    lr: float,
    steps: int = 300,
    d_model: int = 32,
    n_layers: int = 1,
    batch: int = 32,
    start: str = "",
) -> dict[str, float]:
    """`loss` in nats, at most that of a guess, and `accuracy` of what was not seen; `start` is LRU's: `disk`, `ring` or
    `phase`, a ring with small angles, and ` alone` behind it for one without gamma."""
    words = task != "digits"
    examples = WordProblemExamples(task) if words else DigitsExamples()

    def measured(split: str, start: int, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        part = examples(seed=seed, split=split, start=start, count=count, length=length)
        tokens = part["tokens"] if words else part["tokens"].repeat_interleave(length // 64, 1)
        logits, targets = model(tokens)[0].flatten(0, 1), part["targets"].flatten()
        return F.cross_entropy(logits, targets), logits.argmax(-1)[targets >= 0], targets[targets >= 0]

    def loss_at(step: int) -> Tensor:
        now = min(length, 2 + 2 * step * (length - 2) // steps) if words else length
        return measured("train", step * batch, batch, now)[0]

    torch.manual_seed(seed)
    arguments: dict[str, Any] = {"mlp_ratio": 0} if words else {"mlp_ratio": 2, **_DIGITS}
    shape, _, alone = start.partition(" ")
    model = SequenceModel({**mixer, **_STARTS[shape]}, examples.vocab_size, d_model, n_layers, **arguments)
    if alone:
        for layer in model.modules():
            if isinstance(layer, LRU):
                layer.gamma_log.requires_grad_(False).zero_()
    made = create_optimizer(optimizer, model, lr=lr, weight_decay=0.0, **_OPTIONS.get(optimizer, {}))
    descend(model, made, loss_at, steps=steps, schedule="cosine", warmup=steps // 20)
    with torch.no_grad():
        loss, found, expected = measured("test", 0, 360, length)
    guess = -math.log(examples.chance)
    return {
        "loss": min(float(loss), guess) if torch.isfinite(loss) else guess,
        "accuracy": float((found == expected).float().mean()),
    }
