"""TiedAdam: Adam with one beta for both moments, kept as mean and variance.

    sigma_k^2 = beta (sigma_{k-1}^2 + (1 - beta) (m_{k-1} - g_k)^2),   m_k = beta m_{k-1} + (1 - beta) g_k
    x_{k+1} = x_k - lr m_k / (sqrt(m_k^2 + sigma_k^2) + eps)

From zero m_k^2 + sigma_k^2 is exactly Adam's second moment with beta1 = beta2 = beta, without its bias correction: the
step is sign(m) / sqrt(1 + sigma^2 / m^2), a sign damped by the noise. sigma^2 sums squares, so nothing cancels.
Sources: 2505.21829, section 4 (equal betas, this form); 2511.20516 (bias correction only rescales the learning rate by
sqrt(1 - beta2^k) / (1 - beta1^k), which for equal betas is a spike at the start; a warm-up serves better).
"""

from typing import Any

import torch
from torch import Tensor

from seqmix.optim.base import (
    BaseOptimizer,
    Closure,
    blocks,
    check_at_least,
    check_share,
    count_step,
    evaluate,
    never_zero,
    shrink,
)

__all__ = ["TiedAdam"]


class TiedAdam(BaseOptimizer):
    """Adam with beta1 = beta2; two buffers, `mean` and `variance`.

    Args:
        params: parameters or groups.
        lr: learning rate.
        beta: decay of both moments.
        eps: added to the root.
        weight_decay: decoupled, x loses lr * weight_decay * x a step.
        bias_correction: divide both moments by 1 - beta^k, as Adam does.
        maximize: climb.
        foreach: one call for many tensors, or one after the other.

    Raises:
        ValueError: a value out of range, a complex parameter, a sparse gradient.

    Example:
        >>> import torch
        >>> from seqmix.optim import TiedAdam
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = TiedAdam(layer.parameters(), lr=1e-2, beta=0.95)
        >>> layer(torch.ones(2, 3)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        beta: float = 0.95,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        bias_correction: bool = False,
        maximize: bool = False,
        foreach: bool = True,
    ) -> None:
        defaults = {"lr": lr, "beta": beta, "eps": eps, "weight_decay": weight_decay}
        flags = {"bias_correction": bias_correction, "maximize": maximize, "foreach": foreach}
        super().__init__(params, {**defaults, **flags})

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_share("TiedAdam", beta=group["beta"])
        check_at_least("TiedAdam", 0, eps=group["eps"])

    def _begin(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        state["step"] = torch.zeros(())
        state["mean"], state["variance"] = torch.zeros_like(p), torch.zeros_like(p)

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step; returns the closure's loss."""
        loss = evaluate(closure)
        for group in self.param_groups:
            rate, beta, eps = float(group["lr"]), group["beta"], group["eps"]
            params = self._active(group)
            states = [self.state[p] for p in params]
            count_step(states)
            # m / b over sqrt(v / b) + eps is m over sqrt(v b) + eps b
            corrected = group["bias_correction"]
            corrections = [1 - beta ** int(state["step"]) if corrected else 1.0 for state in states]
            columns = [[state[key] for state in states] for key in ("mean", "variance")]
            for xs, grads, means, variances, factors in blocks(group, params, *columns, corrections):
                shrink(xs, rate * group["weight_decay"])
                work = torch._foreach_sub(grads, means)
                torch._foreach_add_(means, work, alpha=1 - beta)
                torch._foreach_mul_(variances, beta)
                torch._foreach_addcmul_(variances, work, work, value=beta * (1 - beta))
                work = torch._foreach_mul(means, means)
                torch._foreach_add_(work, variances)
                if corrected:
                    torch._foreach_mul_(work, factors)
                torch._foreach_sqrt_(work)
                torch._foreach_add_(work, [never_zero(eps * factor, xs[0].dtype) for factor in factors])
                torch._foreach_addcdiv_(xs, means, work, value=-rate)
        return loss
