"""Our optimizers for tests that hold for all of them: how each is made and stepped."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from seqmix.optim import (
    LMO,
    NGN,
    NGND,
    NGNM,
    AngularMuown,
    AntiPGD,
    FractionalPGD,
    LayerNoise,
    Muown,
    NGNMDv1,
    Signum,
    TiedAdam,
)


@dataclass(frozen=True)
class Ours:
    """A class with arguments; `matrices`: takes those alone; `loss`: a step needs it."""

    name: str
    make: Any
    kwargs: dict[str, Any] = field(default_factory=dict)
    matrices: bool = False
    loss: bool = False
    wraps: bool = False

    def __call__(self, params: Any, **kwargs: Any) -> torch.optim.Optimizer:
        if self.wraps:
            own = {key: kwargs.pop(key) for key in ("lr", "weight_decay") if key in kwargs}
            base = torch.optim.SGD(params, **{"lr": 0.05, "momentum": 0.9, **own})
            return self.make(base, **{**self.kwargs, **kwargs})
        return self.make(params, **{**self.kwargs, **kwargs})

    def step(self, optimizer: Any, loss: Any) -> Any:
        return optimizer.step(loss=loss) if self.loss else optimizer.step()


OURS = [
    Ours("ngn", NGN, {"lr": 1.0}, loss=True),
    Ours("ngn-m", NGNM, {"lr": 1.0}, loss=True),
    Ours("ngn-d", NGND, {"lr": 0.1, "momentum": 0.5}, loss=True),
    Ours("ngn-md", NGNMDv1, {"lr": 0.1}, loss=True),
    Ours("ngn-md-w", NGNMDv1, {"lr": 0.1, "decay": "model"}, loss=True),
    Ours("tied-adam", TiedAdam, {"lr": 0.02}),
    Ours("tied-adam-corrected", TiedAdam, {"lr": 0.02, "bias_correction": True}),
    Ours("signum", Signum, {"lr": 0.01}),
    Ours("lmo-l2", LMO, {"lr": 0.05}),
    Ours("lmo-l-inf", LMO, {"lr": 0.01, "norm": "l_inf"}),
    Ours("lmo-spectral", LMO, {"lr": 0.02, "norm": "spectral"}, matrices=True),
    Ours("muown", Muown, {"lr": 0.02}, matrices=True),
    Ours("angular-muown", AngularMuown, {"lr": 0.02}, matrices=True),
    Ours("anti-pgd", AntiPGD, {"sigma": 1e-3}, wraps=True),
    Ours("layer-noise", LayerNoise, {"sigma": 1e-3}, wraps=True),
    Ours("fractional-pgd", FractionalPGD, {"sigma": 1e-3, "memory": 3}, wraps=True),
]


class LeastSquares(nn.Module):
    """A 10 x 5 problem: weight (5, 10) and, unless only matrices may be, a bias (5,)."""

    def __init__(self, bias: bool, dtype: torch.dtype = torch.float32, strided: bool = False) -> None:
        super().__init__()
        stream = torch.Generator().manual_seed(0)
        draw = lambda *shape: torch.randn(*shape, generator=stream, dtype=torch.float64).to(dtype)  # noqa: E731
        weight = draw(5, 10, 2)[..., 0] if strided else draw(5, 10)
        self.weight = nn.Parameter(weight)
        self.bias = nn.Parameter(draw(5, 2)[..., 0] if strided else draw(5)) if bias else None
        self.x, self.y = draw(20, 10), draw(20, 5)

    def loss(self) -> torch.Tensor:
        return (nn.functional.linear(self.x, self.weight, self.bias) - self.y).square().mean()


def train(ours: Ours, model: LeastSquares, optimizer: Any, steps: int, *schedules: Any) -> list[float]:
    """Losses before each step and after the last."""
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = model.loss()
        loss.backward()
        ours.step(optimizer, loss)
        losses.append(loss.item())
        for schedule in schedules:
            plateau = isinstance(schedule, torch.optim.lr_scheduler.ReduceLROnPlateau)
            schedule.step(loss.item()) if plateau else schedule.step()
    return [*losses, model.loss().item()]
