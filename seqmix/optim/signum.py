"""Signum: the sign of the averaged gradient.

    m_k = beta m_{k-1} + (1 - beta) g_k,   x_{k+1} = x_k - lr sign(m_k)

Source: 1802.04434, algorithm 2. In 2505.21829 it closes most of the gap between gradient descent and Adam on language
models; there m starts from zero, which made no difference, and gradients are clipped.
"""

from typing import Any

import torch
from torch import Tensor

from seqmix.optim.base import BaseOptimizer, Closure, blocks, check_share, evaluate, shrink

__all__ = ["Signum"]


class Signum(BaseOptimizer):
    """Sign of the momentum; one buffer, `mean`. With `momentum=0` SignSGD, without a buffer.

    Args:
        params: parameters or groups.
        lr: what every coordinate moves in a step.
        momentum: beta, the decay of the average.
        weight_decay: decoupled, x loses lr * weight_decay * x a step.
        maximize: climb.
        foreach: one call for many tensors, or one after the other.

    Raises:
        ValueError: a value out of range, a complex parameter, a sparse gradient.

    Example:
        >>> import torch
        >>> from seqmix.optim import Signum
        >>> x = torch.nn.Parameter(torch.tensor([3.0, -1.0, 0.0]))
        >>> (x**2).sum().backward()
        >>> Signum([x], lr=0.5).step()
        >>> x.tolist()
        [2.5, -0.5, 0.0]
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-4,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        *,
        maximize: bool = False,
        foreach: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, {**defaults, "maximize": maximize, "foreach": foreach})

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_share("Signum", momentum=group["momentum"])

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step; returns the closure's loss."""
        loss = evaluate(closure)
        for group in self.param_groups:
            rate, beta, params = float(group["lr"]), group["momentum"], self._active(group)
            means = self._buffers(params, "mean") if beta else [None] * len(params)
            for xs, directions, averages in blocks(group, params, means):
                shrink(xs, rate * group["weight_decay"])
                if beta:
                    torch._foreach_lerp_(averages, directions, 1 - beta)
                    directions = averages
                torch._foreach_add_(xs, torch._foreach_sign(directions), alpha=-rate)
        return loss
