"""Averages of weights against annealing (Ajroldi et al. 2025, 2502.06761), on the text of `_text`.

LAWA with ten snapshots over a window told as a share of the run, at the end of a run with a constant rate, with
warm-up, stable and decay, or with a cosine. `raw` is the loss of the last weights, `averaged` the best over the
windows, `window` the share that gave it. With `power_steps` also the Hessian of the best average over that of the last
weights, by its largest `eigenvalue` and its `trace` (Izmailov et al. 2018, 1803.05407).
"""

from collections import deque
from typing import Any

import torch

from seqmix.optim import average_state_dicts
from seqmix.studies.computations._text import curvature, evaluate, small_model, train

__all__ = ["run"]

WINDOWS = (0.01, 0.02, 0.05, 0.1, 0.2)
_ARGUMENTS: dict[str, dict[str, Any]] = {
    "constant": {"warmup": 50},
    "wsd": {"warmup": 50, "cooldown": 0.2},
    "cosine": {"warmup": 50},
}


def run(seed: int, schedule: str, lr: float, steps: int = 500, power_steps: int = 0) -> dict[str, float]:
    """A model of two layers of attention."""
    model = small_model(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, betas=(0.9, 0.95), weight_decay=0.0)
    # Snapshots that any of the windows asks for.
    wanted = {window: {steps - 1 - round(window * steps * index / 10) for index in range(10)} for window in WINDOWS}
    kept: deque[tuple[int, dict[str, torch.Tensor]]] = deque()

    def watch(step: int, model: torch.nn.Module) -> None:
        if any(step in asked for asked in wanted.values()):
            kept.append((step, {name: value.clone() for name, value in model.state_dict().items()}))

    train(model, optimizer, steps=steps, seed=seed, schedule=schedule, watch=watch, **_ARGUMENTS[schedule])
    found = {"raw": evaluate(model)}
    last = curvature(model, power_steps, draws=10) if power_steps else {}
    averages = {
        window: average_state_dicts([state for step, state in kept if step in asked])
        for window, asked in wanted.items()
    }
    losses = {}
    for window, average in averages.items():
        model.load_state_dict(average)
        losses[window] = evaluate(model)
    best = min(losses, key=losses.__getitem__)
    found |= {"averaged": losses[best], "window": best, "gain": found["raw"] - losses[best]}
    if not last:
        return found
    model.load_state_dict(averages[best])
    flat = curvature(model, power_steps, draws=10)
    return found | {name: flat[name] / last[name] for name in last} | {f"{name}_at_end": last[name] for name in last}
