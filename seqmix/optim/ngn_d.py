"""NGN-D: NGN with one step length for every coordinate.

    gamma_j = c / (1 + c g_j^2 / (2 f)),   x_{k+1} = x_k - (1 - beta) gamma g + beta (x_k - x_{k-1})

Source: 2508.15071, algorithm 3 (there without momentum, beta = 0). A coordinate with a small gradient takes c times it,
one with a large gradient 2 f / g_j; what NGN divides over all coordinates each one here gets for itself.
"""

from typing import Any

import torch
from torch import Tensor

from seqmix.optim.base import Closure, blocks, shrink
from seqmix.optim.ngn import NGNM

__all__ = ["NGND"]


class NGND(NGNM):
    """Coordinate-wise NGN; arguments as in `NGNM`, without momentum unless asked.

    Example:
        >>> import torch
        >>> from seqmix.optim import NGND
        >>> x = torch.nn.Parameter(torch.tensor([1.0, 0.1]))
        >>> loss = (x**2).sum() / 2
        >>> loss.backward()
        >>> _ = NGND([x], lr=1.0).step(loss=loss)
        >>> bool(loss > (x**2).sum() / 2)
        True
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        *,
        lower_bound: float = 0.0,
        foreach: bool = True,
    ) -> None:
        super().__init__(params, lr, momentum, weight_decay, lower_bound=lower_bound, foreach=foreach)

    @torch.no_grad()
    def step(  # type: ignore[override]
        self, closure: Closure = None, *, loss: Tensor | float | None = None, clip_coefficient: Tensor | float = 1.0
    ) -> Any:
        """One step; returns the loss. Arguments as in `NGNM.step`."""
        loss, value = self._take_loss(closure, loss)
        for group in self.param_groups:
            rate, beta = float(group["lr"]), group["momentum"]
            params = self._active(group) if rate else []
            velocities = [self.state[p].setdefault("velocity", torch.zeros_like(p)) if beta else None for p in params]
            for xs, grads, velocity in blocks(group, params, velocities):
                shrink(xs, rate * group["weight_decay"])
                # A loss of 0 has gradient 0: any positive number keeps 0 / 0 away.
                tiny = max(torch.finfo(t.dtype).tiny for t in (xs[0], value))
                twice = (2 * value).to(xs[0].device).clamp_min(tiny)
                metric = torch._foreach_mul(grads, grads)
                if not (isinstance(clip_coefficient, float) and clip_coefficient == 1):
                    torch._foreach_mul_(metric, torch.as_tensor(clip_coefficient).to(twice) ** -2)
                torch._foreach_add_(metric, (twice / rate).clamp_min(tiny))
                steps = torch._foreach_div(grads, metric)
                torch._foreach_mul_(steps, -twice)
                if beta:
                    torch._foreach_mul_(velocity, beta)
                    torch._foreach_add_(velocity, steps, alpha=1 - beta)
                    steps = velocity
                torch._foreach_add_(xs, steps)
        return loss
