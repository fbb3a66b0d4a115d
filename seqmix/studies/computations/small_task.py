"""A small model on a task, with any mixer and optimizer, and what it answers to what it has not seen.

Words over a group (NGN-M, 2508.15071), one answer a letter, whose length grows from 2 over the first half of the steps;
recall of four values by their keys (2508.19029); digits (starts of LRU, 2303.06349), pixel after pixel, each repeated
until there are `length`, one answer after the last.
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
from seqmix.tasks.mqar import MQARExamples
from seqmix.tasks.word_problem import WordProblemExamples

__all__ = ["run"]

_OPTIONS: dict[str, Any] = {"sgd": {"momentum": 0.9, "dampening": 0.9}, "adamw": {"betas": (0.9, 0.95)}}
_MODELS: dict[str, dict[str, Any]] = {
    "words": {"mlp_ratio": 0},
    "recall": {"mlp_ratio": 2},
    "digits": {
        "mlp_ratio": 2,
        "head": {"name": "classification", "n_classes": 10, "pooling": "last"},
        "embedding": {"name": "intensity", "n_levels": 17},
    },
}
_RING = {"r_min": 0.9, "r_max": 0.999}
_STARTS = {"": {}, "disk": {}, "ring": _RING, "phase": {**_RING, "max_phase": math.pi / 10}}


def run(
    seed: int, length: int, mixer: str | Mapping[str, Any], lr: float, task: str = "words", group: str = "Z2",
    optimizer: str = "adamw", steps: int = 300, d_model: int = 32, n_layers: int = 1, batch: int = 32, conv: int = 0,
    heads: int = 0, start: str = "",
) -> dict[str, float]:  # fmt: skip
    """`loss` in nats, at most that of a guess, and `accuracy` of what was not seen.

    `conv` is the width of a convolution that the mixer takes, `heads` their number, turned by their positions; `start`
    LRU's: `disk`, `ring` or `phase`, a ring with small angles, and ` alone` behind it for one without gamma.
    """
    made = {"words": lambda: WordProblemExamples(group), "recall": lambda: MQARExamples(64, 4)}
    examples: Any = made.get(task, DigitsExamples)()

    def measured(split: str, start: int, count: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
        part = examples(seed=seed, split=split, start=start, count=count, length=length)
        tokens = part["tokens"].repeat_interleave(max(1, length // part["tokens"].shape[1]), 1)
        logits, targets = model(tokens)[0].flatten(0, 1), part["targets"].flatten()
        return F.cross_entropy(logits, targets), logits.argmax(-1)[targets >= 0], targets[targets >= 0]

    def loss_at(step: int) -> Tensor:
        now = min(length, 2 + 2 * step * (length - 2) // steps) if task == "words" else length
        return measured("train", step * batch, batch, now)[0]

    torch.manual_seed(seed)
    shape, _, alone = start.partition(" ")
    spec = {**({"name": mixer} if isinstance(mixer, str) else mixer), **_STARTS[shape]}
    spec |= ({"d_conv": conv} if conv else {}) | ({"n_heads": heads, "position": "rope"} if heads else {})
    model = SequenceModel(spec, examples.vocab_size, d_model, n_layers, **_MODELS[task])
    for layer in model.modules():
        if alone and isinstance(layer, LRU):
            layer.gamma_log.requires_grad_(False).zero_()
    stepper = create_optimizer(optimizer, model, lr=lr, weight_decay=0.0, **_OPTIONS.get(optimizer, {}))
    descend(model, stepper, loss_at, steps=steps, schedule="cosine", warmup=steps // 20)
    with torch.no_grad():
        loss, found, expected = measured("test", 0, 360, length)
    guess = -math.log(examples.chance)
    return {
        "loss": min(float(loss), guess) if torch.isfinite(loss) else guess,
        "accuracy": float((found == expected).float().mean()),
    }
