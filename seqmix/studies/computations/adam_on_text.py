"""Adam and its relatives on the text of `_text`: losses by betas, bias correction, batch size, horizon and rate.

Studies choose what they vary: bias correction (2511.20516), batch size against SGD (2506.12543), rates by horizon
(2603.15958), tied betas (2505.21829), width (2402.17457). With `tokens` there are as many steps as make up so many.
"""

import math
from typing import Any

import torch

from seqmix.optim import Signum, create_optimizer, parameter_groups
from seqmix.studies.computations._text import LENGTH, evaluate, small_model, train

__all__ = ["run"]


def run(
    seed: int,
    optimizer: str = "adam",
    lr: float = 3e-3,
    beta1: float = 0.9,
    beta2: float = 0.95,
    correction: bool = True,
    schedule: str = "cosine",
    steps: int = 400,
    tokens: int = 0,
    batch: int = 16,
    clip: float = 1.0,
    d_model: int = 48,
    n_layers: int = 2,
    mixer: str = "attention",
    parametrization: str = "standard",
) -> dict[str, float]:
    """Validation `loss`; `optimizer` is adam, sgd (momentum beta1 as an average), signum or muon."""
    sizes = {"d_model": d_model, "n_layers": n_layers, "parametrization": parametrization, "base_width": 32}
    model = small_model(seed, mixer, **sizes)
    steps = tokens // (batch * LENGTH) if tokens else steps
    arguments: dict[str, Any] = {} if schedule == "constant" else {"warmup": max(1, steps // 10)}
    made: torch.optim.Optimizer
    if optimizer == "adam":
        groups = parameter_groups(model, lr=lr, weight_decay=0.0)  # which know the width
        made = torch.optim.Adam(groups, lr=lr, betas=(beta1, beta2))
        if not correction:
            _correct_nothing(made)
    elif optimizer == "sgd":
        made = torch.optim.SGD(model.parameters(), lr=lr, momentum=beta1, dampening=beta1)
    elif optimizer == "signum":
        made = Signum(model.parameters(), lr=lr, momentum=beta1)
    else:
        made = create_optimizer(optimizer, model, lr=lr)
    train(model, made, steps=steps, seed=seed, schedule=schedule, batch=batch, clip=clip, **arguments)
    loss = evaluate(model)
    return {"loss": min(loss, 20.0) if math.isfinite(loss) else math.inf}


def _correct_nothing(optimizer: torch.optim.Optimizer) -> None:
    """Adam from the first step on with the count that it corrects by far away, where both corrections are 1."""
    for group in optimizer.param_groups:
        for p in group["params"]:
            moments = {name: torch.zeros_like(p) for name in ("exp_avg", "exp_avg_sq")}
            optimizer.state[p].update(step=torch.tensor(1e6), **moments)
