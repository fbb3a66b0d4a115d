"""LMO: steps from a linear minimisation oracle over the ball of a norm, among them normalised gradient descent.

    d <- mu d + (1 - mu) g,   lmo(d) = argmin over |z| <= 1 of <d, z>
    x <- x + lr radius lmo(d)                          (steepest descent)
    x <- (1 - lr) x + lr radius lmo(d)                 (constrained: Frank-Wolfe on the ball of that radius)

    l2         lmo(d) = -d / |d|_2       all parameters as one vector: normalised SGD
    l_inf      lmo(d) = -sign(d)         signSGD; on one average Signum
    spectral   lmo(d) = -U V^T           each matrix for itself: Muon without its scale

<d, lmo(d)> = -|d|_*, the dual norm. Sources: 2502.07529, algorithms 1 and 2 (Scion); 2603.15958 for the family.
"""

from typing import Any

import torch
from torch import Tensor

from seqmix.optim.base import Closure, blocks, check_at_least, check_share, evaluate, shrink
from seqmix.optim.matrices import MatrixOptimizer
from seqmix.optim.ngn import add_scaled, squared_norm

__all__ = ["LMO"]

_NORMS = ("l2", "l_inf", "spectral")


class LMO(MatrixOptimizer):
    """Steps of a fixed length in a norm; one buffer, `mean`, unless `momentum=0`.

    Groups may differ in their norm; those with `"l2"` are one vector together.

    Args:
        params: parameters or groups.
        lr: step length, a share of the radius.
        norm: `"l2"`, `"l_inf"` or `"spectral"` (parameters with two axes alone).
        momentum: mu of the averaged gradient.
        radius: of the ball.
        constrained: stay inside the ball, which acts as weight decay by lr; lr is then at most 1.
        weight_decay: decoupled; x loses lr * weight_decay * x a step.
        row_blocks: blocks of rows that are matrices of their own.
        method, steps, precision: of the orthogonalisation; `"svd"` is the exact oracle.
        maximize: climb.
        foreach: one call for many tensors, or one after the other.

    Raises:
        ValueError: a value out of range, an unknown norm, a spectral parameter that has not two axes.

    Example:
        >>> import torch
        >>> from seqmix.optim import LMO
        >>> x = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
        >>> (x**2).sum().backward()
        >>> LMO([x], lr=1.0, norm="l2").step()
        >>> torch.allclose(x, torch.tensor([2.4, 3.2]))
        True
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        norm: str = "l2",
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        *,
        radius: float = 1.0,
        constrained: bool = False,
        row_blocks: int | tuple[int, ...] = 1,
        method: str = "newton-schulz",
        steps: int = 5,
        precision: str = "bfloat16",
        maximize: bool = False,
        foreach: bool = True,
    ) -> None:
        defaults = {"lr": lr, "norm": norm, "momentum": momentum, "weight_decay": weight_decay, "radius": radius}
        matrix = {"row_blocks": row_blocks, "method": method, "steps": steps, "precision": precision}
        flags = {"constrained": constrained, "maximize": maximize, "foreach": foreach}
        super().__init__(params, {**defaults, **matrix, **flags})

    def _check(self, group: dict[str, Any]) -> None:
        if group["norm"] not in _NORMS:
            raise ValueError(f"LMO: norm must be one of {', '.join(_NORMS)}, got {group['norm']!r}")
        super()._check(group)
        check_share("LMO", momentum=group["momentum"])
        check_at_least("LMO", 0, radius=group["radius"])
        if group["constrained"] and not float(group["lr"]) <= 1:
            raise ValueError(f"LMO: lr must be at most 1 to stay inside the ball (constrained), got {group['lr']!r}")

    def _takes_matrices(self, group: dict[str, Any]) -> bool:
        return group["norm"] == "spectral"

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step; returns the closure's loss."""
        loss = evaluate(closure)
        directions = [self._average(group) for group in self.param_groups]
        vectors = [d for g, ds in zip(self.param_groups, directions, strict=True) if g["norm"] == "l2" for d in ds]
        length = None
        if vectors:
            like = vectors[0].new_zeros((), dtype=torch.promote_types(vectors[0].dtype, torch.float32))
            length = squared_norm(vectors, like).sqrt()
            length = torch.where(length == 0, torch.ones_like(length), length)
        for group, ds in zip(self.param_groups, directions, strict=True):
            params = [p for p in group["params"] if p.grad is not None]
            rate = float(group["lr"])
            share = rate * group["weight_decay"] + (rate if group["constrained"] else 0.0)
            step = rate * group["radius"]
            if group["norm"] == "spectral":
                ds = [self._orthogonal(d.clone(), group, lambda shape: 1.0) for d in ds]
            for xs, _, zs in blocks({**group, "maximize": False}, params, ds):
                shrink(xs, share)
                if group["norm"] == "l2" and length is not None:
                    add_scaled(xs, zs, -step / length)
                else:
                    zs = torch._foreach_sign(zs) if group["norm"] == "l_inf" else zs
                    torch._foreach_add_(xs, zs, alpha=-step)
        return loss

    def _average(self, group: dict[str, Any]) -> list[Tensor]:
        params, mu = self._active(group), group["momentum"]
        grads = [p.grad for p in params]
        if group["maximize"] and grads:
            grads = list(torch._foreach_neg(grads))  # type: ignore[arg-type]
        if not mu or not params:
            return grads  # type: ignore[return-value]
        means = self._buffers(params, "mean")
        torch._foreach_lerp_(means, grads, 1 - mu)  # type: ignore[arg-type]
        return means
