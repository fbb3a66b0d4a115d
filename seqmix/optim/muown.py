"""Muown: Muon on the directions of a matrix's rows, Adam on their lengths.

    W = diag(g) V / |V|_rows,  U = W / g                                       (only inside: the model keeps W)
    dg = rowsum(G * U),   dV = (g / |V|) * (G - U dg)                          (dV is orthogonal to each row)
    M <- mu M + dV,   O = U V^T-factor of (dV + mu M),   V <- V - lr 0.2 sqrt(max(m, n)) O
    g <- g - lr Adam(dg),   W <- g V / |V|,   then W <- W - lr lambda W_old and g <- |W|_rows

Source: 2605.10797 and its authors' code. |V| grows with every step, so that angular steps shrink by themselves. Three
things differ from that code: fused matrices are named (`row_blocks`), not guessed from a 3:1 shape; a row of zeros
stays finite: it takes the direction of its negative gradient and grows from length 0; g keeps its sign.
"""

from typing import Any

import torch
from torch import Tensor

from seqmix.optim.base import Closure, check_at_least, check_betas, check_share, count_step, evaluate, local
from seqmix.optim.matrices import MatrixOptimizer, adam_direction, row_slices

__all__ = ["Muown"]

_LINEAR_ROW = 3**-0.5  # length of a row of nn.Linear's initialisation, for rows that have none


class Muown(MatrixOptimizer):
    """Muown for matrices; one buffer of their size and four of a number for each row.

    Args:
        params: parameters with two axes, or groups of them; `create_optimizer("muown", model)` finds them.
        lr: learning rate of directions and lengths, of AdamW's size.
        momentum: mu of the undamped sum.
        weight_decay: decoupled; W loses lr * weight_decay * W a step.
        nesterov: look ahead along the momentum.
        betas, eps: of Adam on the row lengths.
        row_blocks: number of equal blocks of rows that are matrices of their own (3 for fused q, k, v), or sizes.
        method, steps, precision: of the orthogonalisation (`seqmix.optim.orthogonal`).
        maximize: climb.

    Raises:
        ValueError: a value out of range, a parameter that has not two axes, a complex one, a sparse gradient.

    Example:
        >>> import torch
        >>> from seqmix.optim import Muown
        >>> layer = torch.nn.Linear(8, 4, bias=False)
        >>> optimizer = Muown(layer.parameters(), lr=1e-2)
        >>> layer(torch.ones(2, 8)).square().mean().backward()
        >>> optimizer.step()
    """

    floor = 1e-12  # a length that would cross zero exactly keeps this, and so its direction

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 3e-4,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        row_blocks: int | tuple[int, ...] = 1,
        method: str = "newton-schulz",
        steps: int = 5,
        precision: str = "bfloat16",
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        adam = {"betas": betas, "eps": eps}
        matrix = {"row_blocks": row_blocks, "method": method, "steps": steps, "precision": precision}
        super().__init__(params, {**defaults, **adam, **matrix, "maximize": maximize})

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        owner = type(self).__name__
        check_share(owner, momentum=group["momentum"])
        check_betas(owner, group["betas"])
        check_at_least(owner, 0, eps=group["eps"])

    def _begin(self, p: Tensor, group: dict[str, Any]) -> None:
        state = self.state[p]
        length = torch.linalg.vector_norm(p.detach(), dim=1, keepdim=True)
        state["step"] = torch.zeros(())
        state["momentum"] = torch.zeros_like(p)
        state["length"] = length
        state["norm"] = torch.where(length == 0, torch.full_like(length, _LINEAR_ROW), length)
        state["length_mean"], state["length_square"] = torch.zeros_like(length), torch.zeros_like(length)
        # once, before the first step: later steps ask no device
        state["empty"] = bool(local((length == 0).any()))

    def _step_scale(self, group: dict[str, Any], count: int, shape: torch.Size) -> float:
        """What an orthogonal factor of this shape is multiplied with, beside lr."""
        return 0.2 * max(shape) ** 0.5

    @torch.no_grad()
    def step(self, closure: Closure = None) -> Any:
        """One step; returns the closure's loss."""
        loss = evaluate(closure)
        for group in self.param_groups:
            params = self._active(group)
            count_step([self.state[p] for p in params])
            for p in params:
                self._update(p, group, self.state[p])
        return loss

    def _update(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        mu, rate = group["momentum"], float(group["lr"])
        length, norm = state["length"], state["norm"]
        empty = length == 0
        inverse = torch.where(empty, torch.zeros_like(length), 1 / length)
        assert p.grad is not None
        grad = -p.grad if group["maximize"] else p.grad
        slopes = torch.empty_like(length)
        lowered = p.dtype == torch.float32 and group["method"] != "svd" and group["precision"] == "bfloat16"
        looked = torch.empty_like(p, dtype=torch.bfloat16 if lowered else p.dtype)
        for rows in row_slices(p):
            unit = self._unit(p, grad, inverse, empty if state["empty"] else None, rows)
            slopes[rows] = (grad[rows] * unit).sum(1, keepdim=True)
            tangent = torch.addcmul(grad[rows], unit, slopes[rows], value=-1).mul_((length / norm)[rows])
            momentum = state["momentum"][rows].mul_(mu).add_(tangent)
            looked[rows] = tangent.add_(momentum, alpha=mu) if group["nesterov"] else momentum
        moved = ~empty | (slopes != 0)
        fresh = length - rate * adam_direction(state, "length", slopes, group["betas"], group["eps"])
        floor = torch.full_like(fresh, self.floor).copysign_(fresh)
        fresh = torch.where(moved & (fresh.abs() < self.floor), floor, fresh)
        count = int(state["step"])
        factors = self._orthogonal(looked, group, lambda shape: self._step_scale(group, count, shape))
        for rows in row_slices(p):
            unit = self._unit(p, grad, inverse, empty if state["empty"] else None, rows)
            unit.mul_(norm[rows]).add_(factors[rows], alpha=-rate)
            size = torch.linalg.vector_norm(unit, dim=1, keepdim=True)
            norm[rows] = torch.where(size == 0, norm[rows], size)  # a row that has no direction yet
            unit.mul_(fresh[rows] / norm[rows])
            if group["weight_decay"]:
                unit.add_(p[rows], alpha=-rate * group["weight_decay"])
                fresh[rows] = torch.linalg.vector_norm(unit, dim=1, keepdim=True).copysign(fresh[rows])
            p[rows] = unit
        length.copy_(fresh)

    @staticmethod
    def _unit(p: Tensor, grad: Tensor, inverse: Tensor, empty: Tensor | None, rows: slice) -> Tensor:
        unit = p[rows] * inverse[rows]
        if empty is None:
            return unit
        start = grad[rows]
        size = torch.linalg.vector_norm(start, dim=1, keepdim=True)
        start = start / size.clamp_min(torch.finfo(start.dtype).tiny)
        return torch.where(empty[rows], -start, unit)
