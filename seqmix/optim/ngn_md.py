"""NGN-MDv1: NGN in the metric of Adam's second moment, with momentum of the preconditioned steps.

    v_k = beta2 v_{k-1} + (1 - beta2) g_k^2,   D_k = eps + sqrt(v_k / (1 - beta2^k)),   N_k = sum_j g_j^2 / D_j
    gamma_k = c / (1 + c N_k / (2 f_k)),   x_{k+1} = x_k - (1 - beta1) gamma_k g_k / D_k + beta1 (x_k - x_{k-1})

Source: 2508.15071, algorithm 2, version 1. Two ways to decay by lambda, which perform alike there:

    decoupled: subtract also c lambda x_k                                                        (Dec-NGN-MDv1)
    model:     minimise (r + grad r . p)^2 + |p|_D^2 / (2c) + lambda |x + p|_D^2 / 2              (NGN-MDv1W)
               x / (1 + lambda c) - s [1 - s lambda g.x / (2f)]_+ / (1 + s N / (2f)) g / D,  s = c / (1 + lambda c)

x_k - x_{k-1} holds the decay too, so that it acts 1 / (1 - beta1) times: lambda is smaller than AdamW's.
"""

from typing import Any

import torch
from torch import Tensor

from seqmix.optim.base import Closure, blocks, check_at_least, check_betas, count_step, never_zero
from seqmix.optim.ngn import LossOptimizer, add_scaled, total

__all__ = ["NGNMDv1"]


class NGNMDv1(LossOptimizer):
    """NGN-MDv1; two buffers, `velocity` and `second_moment`.

    Args:
        params: parameters or groups; groups with their own c are one problem with one loss.
        lr: c; good values are several times Adam's learning rate, and a decade off costs little.
        betas: beta1 of the heavy ball, beta2 of the second moment.
        eps: added to D.
        weight_decay: lambda.
        decay: `"decoupled"` or `"model"`.
        lower_bound: a value that the loss never falls below.
        foreach: one call for many tensors, or one after the other.

    Raises:
        ValueError: a value out of range; in `step` neither or both of closure and loss, or a loss that is negative
            or not finite, with the parameters as they were.

    Example:
        >>> import torch
        >>> from seqmix.optim import NGNMDv1
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = NGNMDv1(layer.parameters(), lr=1e-2)
        >>> loss = layer(torch.ones(2, 3)).square().mean()
        >>> loss.backward()
        >>> optimizer.step(loss=loss) is loss
        True
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        *,
        decay: str = "decoupled",
        lower_bound: float = 0.0,
        foreach: bool = True,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "decay": decay}
        super().__init__(params, {**defaults, "lower_bound": lower_bound, "foreach": foreach})

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        check_betas("NGNMDv1", group["betas"])
        check_at_least("NGNMDv1", 0, eps=group["eps"])
        if not float(group["lr"]) < float("inf"):
            raise ValueError(f"NGNMDv1: lr must be finite, got {group['lr']!r}")
        if group["decay"] not in ("decoupled", "model"):
            raise ValueError(f"NGNMDv1: decay must be 'decoupled' or 'model', got {group['decay']!r}")

    def _begin(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        state["step"] = torch.zeros(())
        state["velocity"], state["second_moment"] = torch.zeros_like(p), torch.zeros_like(p)

    @torch.no_grad()
    def step(
        self, closure: Closure = None, *, loss: Tensor | float | None = None, clip_coefficient: Tensor | float = 1.0
    ) -> Any:
        """One step; returns the loss. Arguments as in `NGNM.step`."""
        loss, value = self._take_loss(closure, loss)
        active = [self._active(group) for group in self.param_groups]
        squares, inner, rates = [], [], []
        for group, params in zip(self.param_groups, active, strict=True):
            rate, decay = float(group["lr"]), _model_decay(group)
            count_step([self.state[p] for p in params])
            norms: list[Tensor] = []
            products: list[Tensor] = []
            for xs, grads, moments, corrections in self._blocks(group, params, "second_moment"):
                beta2 = group["betas"][1]
                torch._foreach_mul_(moments, beta2)
                torch._foreach_addcmul_(moments, grads, grads, value=1 - beta2)
                weighted = torch._foreach_div(grads, _metric(moments, corrections, group["eps"]))
                torch._foreach_mul_(weighted, grads)
                norms += [c * t.sum(dtype=value.dtype) for c, t in zip(corrections, weighted, strict=True)]
                if decay:
                    products += [t.sum(dtype=value.dtype) for t in torch._foreach_mul(grads, xs)]
            squares.append(total(norms, value) / clip_coefficient**2)
            inner.append(decay * total(products, value) / clip_coefficient)
            rates.append(rate / (1 + decay * rate))
        # [1 - sum_i s_i lambda_i (g.x)_i / (2f)]_+; without decay 1, at a loss of 0 there is no gradient
        lean = sum(s * product for s, product in zip(rates, inner, strict=True)) / (2 * value)
        factor = (1 - torch.where(torch.isnan(lean), 0, lean)).clamp_min(0)
        gammas = [factor * gamma for gamma in self._rates(value, squares, rates)]
        for group, params, gamma in zip(self.param_groups, active, gammas, strict=True):
            self._move(group, params, gamma)
        return loss

    def _blocks(self, group: dict[str, Any], params: list[Tensor], *keys: str) -> Any:
        beta2 = group["betas"][1]
        corrections = [(1 - beta2 ** int(self.state[p]["step"])) ** 0.5 for p in params]
        return blocks(group, params, *([self.state[p][key] for p in params] for key in keys), corrections)

    def _move(self, group: dict[str, Any], params: list[Tensor], gamma: Tensor) -> None:
        beta, share = group["betas"][0], float(group["lr"]) * group["weight_decay"]
        share = share / (1 + share) if group["decay"] == "model" else share
        for xs, grads, moments, velocity, corrections in self._blocks(group, params, "second_moment", "velocity"):
            # The metric again rather than kept: no buffer as large as the model.
            metric = _metric(moments, corrections, group["eps"])
            torch._foreach_mul_(velocity, beta)
            if gamma.device.type == "cpu":
                scale = -(1 - beta) * float(gamma)
                torch._foreach_addcdiv_(velocity, grads, metric, [scale * c for c in corrections])
            else:
                steps = torch._foreach_div(grads, metric)
                torch._foreach_mul_(steps, corrections)
                add_scaled(velocity, list(steps), -(1 - beta) * gamma)
            if share:
                torch._foreach_add_(velocity, xs, alpha=-share)
            torch._foreach_add_(xs, velocity)


def _metric(moments: list[Tensor], corrections: list[float], eps: float) -> list[Tensor]:
    """D times the root of the bias correction, which is left to a factor of the step."""
    metric = list(torch._foreach_sqrt(moments))
    torch._foreach_add_(metric, [never_zero(eps * correction, moments[0].dtype) for correction in corrections])
    return metric


def _model_decay(group: dict[str, Any]) -> float:
    return group["weight_decay"] if group["decay"] == "model" else 0.0
