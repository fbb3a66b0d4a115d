"""The decay of WSD as a walk across a valley (Belloni et al. 2026, 2601.09000), on the text of `_text`.

Losses on the line from the weights at the start of the decay (0) to those at its end (1), and beyond; the largest
eigenvalue of the Hessian at both, by power iteration on two fixed batches.
"""

import torch
from torch import nn

from seqmix.studies.computations._text import curvature, evaluate, small_model, train

__all__ = ["run"]

PLACES = (-0.5, 0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5)


def run(
    seed: int, mixer: str, lr: float = 3e-3, steps: int = 500, decay: float = 0.2, power_steps: int = 12
) -> dict[str, float]:
    """`bowl`: the smallest second difference of the losses along the line; `bottom`: where on it the loss is smallest;
    `sharpness`: eigenvalue at the end over that at the start; `gain`: loss at the start less that at the end."""
    model = small_model(seed, mixer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    begin, before = steps - round(decay * steps), {}

    def watch(step: int, model: nn.Module) -> None:
        if step == begin - 1:
            before.update({name: value.clone() for name, value in model.state_dict().items()})

    train(model, optimizer, steps=steps, seed=seed, schedule="wsd", warmup=50, cooldown=decay, watch=watch)
    after = {name: value.clone() for name, value in model.state_dict().items()}
    losses = []
    for place in PLACES:
        model.load_state_dict({name: torch.lerp(before[name], after[name], place) for name in after})
        losses.append(evaluate(model))
    even = losses[1:]  # places a quarter apart
    bowl = min(a - 2 * b + c for a, b, c in zip(even, even[1:], even[2:], strict=False))
    sharp = []
    for weights in (before, after):
        model.load_state_dict(weights)
        sharp.append(curvature(model, power_steps)["eigenvalue"])
    return {
        "bowl": bowl,
        "bottom": PLACES[losses.index(min(losses))],
        "sharpness": sharp[1] / sharp[0],
        "gain": losses[1] - losses[5],
        "at_start": sharp[0],
        "at_end": sharp[1],
    }
