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

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if not float(group["lr"]) < float("inf"):
            raise ValueError(f"NGND: lr must be finite, got {group['lr']!r}")

    @torch.no_grad()
    def step(
        self, closure: Closure = None, *, loss: Tensor | float | None = None, clip_coefficient: Tensor | float = 1.0
    ) -> Any:
        """One step; returns the loss. Arguments as in `NGNM.step`."""
        loss, value = self._take_loss(closure, loss)
        for group in self.param_groups:
            rate, beta = float(group["lr"]), group["momentum"]
            params = self._active(group)
            velocities = self._buffers(params, "velocity") if beta else [None] * len(params)
            for xs, grads, velocity in blocks(group, params, velocities):
                shrink(xs, rate * group["weight_decay"])
                # c / (2 f), finite: where the loss is 0 so is the gradient
                doubled = 2 * value.to(xs[0].device) * torch.as_tensor(clip_coefficient) ** 2
                share = rate / doubled if rate else torch.zeros_like(doubled)
                share = share.clamp_max(min(torch.finfo(t.dtype).max for t in (xs[0], value)))
                metric = torch._foreach_mul(grads, grads)
                torch._foreach_mul_(metric, share)
                torch._foreach_add_(metric, 1)
                steps = torch._foreach_div(grads, metric)
                if beta:
                    torch._foreach_mul_(velocity, beta)
                    torch._foreach_add_(velocity, steps, alpha=-(1 - beta) * rate)
                    torch._foreach_add_(xs, velocity)
                else:
                    torch._foreach_add_(xs, steps, alpha=-rate)
        return loss
