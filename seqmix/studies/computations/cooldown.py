"""The decay of WSD as a walk across a valley (Belloni et al. 2026, 2601.09000), on the text of `_text`.

Losses on the line from the weights at the start of the decay (0) to those at its end (1), and beyond; the largest
eigenvalue of the Hessian at both, by power iteration on two fixed batches.
"""

import torch
from torch import Tensor, nn

from seqmix.kernels import backend
from seqmix.studies.computations._text import evaluate, loss_of, small_model, train, validation_batch

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
        sharp.append(_sharpness(model, power_steps))
    return {
        "bowl": bowl,
        "bottom": PLACES[losses.index(min(losses))],
        "sharpness": sharp[1] / sharp[0],
        "gain": losses[1] - losses[5],
        "at_start": sharp[0],
        "at_end": sharp[1],
    }


def _sharpness(model: nn.Module, steps: int) -> float:
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = validation_batch(16)
    # SDPA's fused kernels have no second derivative, nor have compiled scans.
    with backend("reference"):
        gradients = torch.autograd.grad(loss_of(model, rows), parameters, create_graph=True)
        generator = torch.Generator().manual_seed(0)
        vectors: list[Tensor] = [torch.randn(p.shape, generator=generator) for p in parameters]
        largest = 0.0
        for _ in range(steps):
            size = torch.sqrt(sum((v**2).sum() for v in vectors))  # type: ignore[arg-type]
            vectors = [v / size for v in vectors]
            vectors = list(torch.autograd.grad(gradients, parameters, vectors, retain_graph=True))
            largest = float(torch.sqrt(sum((v**2).sum() for v in vectors)))  # type: ignore[arg-type]
    return largest
