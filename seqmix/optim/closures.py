"""Optimizers of pytorch-optimizer that compute the gradient themselves, made to work with `step(closure)` alone.

Theirs want gradients that were computed before the step, or a closure that turns gradients on. Here the closure clears
the gradients, computes the loss and its gradients, and returns the loss, as `torch.optim` and Lightning do it.
"""

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from seqmix._extras import require
from seqmix.optim.base import Closure, evaluate

require("pytorch_optimizer", extra="train", owner="seqmix.optim.closures")
import pytorch_optimizer.optimizer  # noqa: E402

library: Any = pytorch_optimizer.optimizer

__all__ = ["SAM", "AliG", "FriendlySAM", "LookSAM"]


def _evaluate(owner: Optimizer, closure: Closure) -> Any:
    if closure is None:
        raise ValueError(f"{type(owner).__name__}: step needs a closure that computes the loss and its gradients")
    return evaluate(closure)


class _Ascent:
    """The gradient at the weights first, then theirs: climb, the gradient there, back, the base's step."""

    def __init__(self, base: Optimizer, **kwargs: Any) -> None:
        super().__init__(base.param_groups, lambda groups, **_: base, **kwargs)  # type: ignore[call-arg]

    def step(self, closure: Closure = None) -> Tensor:
        loss = _evaluate(self, closure)  # type: ignore[arg-type]
        super().step(closure)  # type: ignore[misc]
        return loss


class SAM(_Ascent, library.SAM):
    """min over x of max over |e| <= rho of f(x + e), to first order; 2010.01412. `adaptive`: ASAM, 2102.11600."""

    def __init__(self, base: Optimizer, rho: float = 0.05, adaptive: bool = False, perturb_eps: float = 1e-12) -> None:
        super().__init__(base, rho=rho, adaptive=adaptive, perturb_eps=perturb_eps)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # groups and state are the base's, which may hand them to parts of its own
        self.base_optimizer.load_state_dict(state_dict)
        self.param_groups, self.state = self.base_optimizer.param_groups, self.base_optimizer.state


class LookSAM(_Ascent, library.LookSAM):
    """SAM that climbs every k-th step and reuses the orthogonal part of that gradient between; 2203.02714."""

    def __init__(
        self, base: Optimizer, rho: float = 0.1, k: int = 10, alpha: float = 0.7, adaptive: bool = False
    ) -> None:
        super().__init__(base, rho=rho, k=k, alpha=alpha, adaptive=adaptive)


class FriendlySAM(_Ascent, library.FriendlySAM):
    """SAM that climbs along the gradient without its running average; 2403.12350."""

    def __init__(
        self, base: Optimizer, rho: float = 0.05, sigma: float = 1.0, lmbda: float = 0.9, adaptive: bool = False
    ) -> None:
        super().__init__(base, rho=rho, sigma=sigma, lmbda=lmbda, adaptive=adaptive)


class AliG(library.AliG):
    """Polyak's step f / |g|^2, at most `max_lr`; 1906.05661."""

    def step(self, closure: Closure = None) -> Tensor:
        loss = _evaluate(self, closure)
        super().step(lambda: loss.detach())
        return loss
