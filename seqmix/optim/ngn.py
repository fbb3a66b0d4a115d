"""NGN and NGN-M: steps whose length comes from the loss, so that no learning rate makes them diverge.

With f >= 0 and f = r^2, linearise r and stay close: minimise (r + grad r . p)^2 + |p|^2 / (2c) over p. In closed form

    p = -gamma g,   gamma = c / (1 + c |g|^2 / (2 f)),   x_{k+1} = x_k + p                           (NGN)
    x_{k+1} = x_k - (1 - beta) gamma_k g_k + beta (x_k - x_{k-1})                                    (NGN-M)

1 / gamma = 1 / c + 1 / P with P = 2 f / |g|^2, twice Polyak's step: gamma lies between min(c, P) / 2 and min(c, P).
Sources: 2407.04358, equation 4 (NGN); 2508.15071, algorithm 1 (NGN-M). gamma belongs to the raw gradient of its step;
computed for the averaged one, large c diverge. Groups with their own c are one problem with the metric diag(1 / c):
gamma_i = c_i / (1 + sum_j c_j |g_j|^2 / (2 f)).
"""

import math
from typing import Any

import torch
from torch import Tensor

from seqmix._checks import is_number
from seqmix.optim.base import BaseOptimizer, Closure, blocks, check_share, evaluate, local, shrink

__all__ = ["NGN", "NGNM", "LossOptimizer"]


class LossOptimizer(BaseOptimizer):
    """The loss that an NGN step needs: from a closure or given, checked before anything moves."""

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        owner, bound, first = type(self).__name__, group["lower_bound"], self.param_groups[0]["lower_bound"]
        if not is_number(bound) or not math.isfinite(bound):
            raise ValueError(f"{owner}: lower_bound must be a finite number, got {bound!r}")
        if bound != first:
            raise ValueError(f"{owner}: lower_bound must be that of the other groups, {first!r}, got {bound!r}")

    def _take_loss(self, closure: Closure, loss: Any) -> tuple[Any, Tensor]:
        owner, bound = type(self).__name__, self.param_groups[0]["lower_bound"]
        if (closure is None) == (loss is None):
            raise ValueError(f"{owner}: step needs a closure or loss=, {'neither' if loss is None else 'both'} given")
        loss = evaluate(closure) if loss is None else loss
        if not isinstance(loss, int | float | Tensor) or (isinstance(loss, Tensor) and loss.numel() != 1):
            got = tuple(loss.shape) if isinstance(loss, Tensor) else repr(loss)
            raise ValueError(f"{owner}: the loss must be one number, got {got}")
        given = loss.detach().reshape(()) if isinstance(loss, Tensor) else torch.tensor(loss, dtype=torch.float64)
        value = local(given if given.dtype == torch.float64 else given.float()) - bound
        # On an accelerator reading the value would wait for it: there a bad one shows as NaN weights.
        if value.device.type == "cpu" and not 0 <= float(value) < math.inf:
            raise ValueError(f"{owner}: the loss must be finite and at least lower_bound = {bound}, got {float(loss)}")
        return loss, value.masked_fill((value < 0) | (value == math.inf), torch.nan)

    def _rates(self, loss: Tensor, squares: list[Tensor], rates: list[float]) -> list[Tensor]:
        """gamma of every group from its squared norm and its c, which may be infinite."""
        largest = max(rates)
        if largest == 0:
            return [torch.zeros_like(loss) for _ in rates]
        shares = [(1.0 if c == largest else 0.0) if largest == math.inf else c / largest for c in rates]
        total = torch.zeros_like(loss)
        for share, square in zip(shares, squares, strict=True):
            total = total + share * square.to(loss.device)
        # 0 / 0 where nothing moves: no gradient, or a minimum that is reached
        ratio = torch.where(total == 0, torch.zeros_like(loss), total / (2 * loss))
        gamma = 1 / (1 / largest + ratio)
        gamma = torch.where(torch.isinf(gamma), torch.zeros_like(gamma), gamma)
        return [share * gamma for share in shares]


class NGNM(LossOptimizer):
    """NGN with momentum, in heavy-ball form; one buffer, `velocity` = x_k - x_{k-1}.

    Args:
        params: parameters or groups.
        lr: c; up to two decades above the best one still train. `math.inf` is twice Polyak's step.
        momentum: beta in [0, 1).
        weight_decay: decoupled; x loses lr * weight_decay * x a step, outside the momentum.
        lower_bound: a value that the loss never falls below; its distance to the loss sets the step.
        foreach: one call for many tensors, or one after the other.

    Raises:
        ValueError: a value out of range; in `step` neither or both of closure and loss, or a loss that is negative
            or not finite, with the parameters as they were.

    Example:
        >>> import torch
        >>> from seqmix.optim import NGNM
        >>> x = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = NGNM([x], lr=1.0, momentum=0.0)
        >>> loss = (x**2).sum() / 2
        >>> loss.backward()
        >>> _ = optimizer.step(loss=loss)
        >>> x.item()
        1.0
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        lower_bound: float = 0.0,
        foreach: bool = True,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "lower_bound": lower_bound}
        super().__init__(params, {**defaults, "foreach": foreach})

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        owner, lr, decay = type(self).__name__, group["lr"], group["weight_decay"]
        check_share(owner, momentum=group["momentum"])
        if decay and not float(lr) < math.inf:
            raise ValueError(f"{owner}: weight_decay must be 0 where lr is infinite, got {decay!r} and {lr!r}")

    @torch.no_grad()
    def step(
        self, closure: Closure = None, *, loss: Tensor | float | None = None, clip_coefficient: Tensor | float = 1.0
    ) -> Any:
        """One step; returns the loss.

        Args:
            closure: clears the gradients, computes the loss and its gradients, returns the loss.
            loss: the loss of the gradients that are there: not scaled, without penalties, mean over micro-batches.
            clip_coefficient: what clipping has multiplied the gradients with, to take |g| as it was before.
        """
        loss, value = self._take_loss(closure, loss)
        active = [self._active(group) for group in self.param_groups]
        squares = [squared_norm([p.grad for p in params], value) / clip_coefficient**2 for params in active]
        rates = self._rates(value, squares, [float(group["lr"]) for group in self.param_groups])
        for group, params, gamma in zip(self.param_groups, active, rates, strict=True):
            beta, decay = group["momentum"], group["weight_decay"]
            decay = float(group["lr"]) * decay if decay else 0.0  # an infinite lr has no decay
            if not beta:
                for xs, grads in blocks(group, params):
                    shrink(xs, decay)
                    add_scaled(xs, grads, -gamma)
                continue
            for xs, grads, steps in blocks(group, params, self._buffers(params, "velocity")):
                shrink(xs, decay)
                torch._foreach_mul_(steps, beta)
                add_scaled(steps, grads, -(1 - beta) * gamma)
                torch._foreach_add_(xs, steps)
        return loss


class NGN(NGNM):
    """NGN without momentum and without state; arguments as in `NGNM`.

    Example:
        >>> import torch
        >>> from seqmix.optim import NGN
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = NGN(layer.parameters(), lr=1.0)
        >>> def closure():
        ...     optimizer.zero_grad()
        ...     loss = layer(torch.ones(2, 3)).square().mean()
        ...     loss.backward()
        ...     return loss
        >>> bool(optimizer.step(closure) >= closure())
        True
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1.0,
        weight_decay: float = 0.0,
        *,
        lower_bound: float = 0.0,
        foreach: bool = True,
    ) -> None:
        super().__init__(params, lr, 0.0, weight_decay, lower_bound=lower_bound, foreach=foreach)


def squared_norm(tensors: list[Any], like: Tensor) -> Tensor:
    """Sum of squares of all tensors, shards of other ranks included, as a scalar on the device of `like`."""
    kinds = {t.dtype for t in tensors}
    low = kinds & {torch.bfloat16, torch.float16}  # whose own norm has three digits, or overflows
    wide = torch.float64 if torch.float64 in kinds else torch.float32
    norms = torch._foreach_norm(tensors, 2, wide if low else None) if tensors else ()
    return total([n.square() for n in norms], like)


def total(parts: list[Tensor], like: Tensor) -> Tensor:
    """Sum of scalars, in the type of `like` or a wider one, on its device."""
    result = torch.zeros_like(like)
    for part in parts:
        result = result + local(part).to(result.device)
    return result


def add_scaled(targets: list[Tensor], others: list[Tensor], scale: Tensor) -> None:
    """targets += scale * others; on a CPU the scale is a number and nothing is allocated."""
    if scale.device.type == "cpu":
        torch._foreach_add_(targets, others, alpha=float(scale))
    else:
        torch._foreach_add_(targets, torch._foreach_mul(others, scale.to(targets[0].device)))
