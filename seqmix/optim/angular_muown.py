"""AngularMuown: Muown with unit rows, whose angular steps shrink by a schedule instead of by growing norms.

    W = diag(g) U with rows of length 1,   dg = rowsum(G * U),   dU = g (G - U dg)
    M <- mu M + dU,   U <- rows of (U - lr kappa_t s Q) set to length 1,   Q = U V^T-factor of (dU + mu M)
    kappa_t = (1 + 0.001 (t - warm-up)_+)^-1,   s = sqrt(max(1, m / n)),   g <- g - lr Adam(dg), |g| >= 1e-7

Source: 2606.23637 and its authors' code: "Muown implicitly performs angular step-size decay". Rows of zeros start there
with length sqrt(0.33), which changes what the model computes; here they take the direction of their negative gradient
and grow from 0, as in `Muown`. With a schedule of the learning rate that decays by itself set `decay_degree=0`.
"""

from typing import Any

import torch
from torch import Tensor

from seqmix.optim.base import check_at_least
from seqmix.optim.matrices import MatrixOptimizer
from seqmix.optim.muown import Muown

__all__ = ["AngularMuown"]


class AngularMuown(Muown):
    """AngularMuown for matrices; one buffer of their size and four of a number for each row.

    Args:
        params, momentum, weight_decay, nesterov, betas, eps, row_blocks, maximize: see `Muown`.
        method, steps, precision: of the orthogonalisation (`seqmix.optim.orthogonal`), with the source's triples;
            `"polar-express"` computes better ones for other numbers of steps.
        lr: learning rate; 0.01 to 0.04 in the source.
        decay_scale, decay_degree: of kappa; degree 0 leaves it at 1.
        warmup: steps before kappa begins to fall.
        scale: `"spectral"` for s = sqrt(max(1, m / n)), `"rms"` for 0.2 sqrt(max(m, n)).

    Raises:
        ValueError: as `Muown`.

    Example:
        >>> import torch
        >>> from seqmix.optim import AngularMuown
        >>> layer = torch.nn.Linear(8, 4, bias=False)
        >>> optimizer = AngularMuown(layer.parameters(), lr=1e-2)
        >>> layer(torch.ones(2, 8)).square().mean().backward()
        >>> optimizer.step()
    """

    floor = 1e-7

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-2,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        *,
        nesterov: bool = True,
        betas: tuple[float, float] = (0.9, 0.95),
        eps: float = 1e-8,
        decay_scale: float = 1e-3,
        decay_degree: float = 1.0,
        warmup: int = 0,
        scale: str = "spectral",
        row_blocks: int | tuple[int, ...] = 1,
        method: str = "polar-express-published",
        steps: int = 5,
        precision: str = "bfloat16",
        maximize: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        adam = {"betas": betas, "eps": eps}
        angular = {"decay_scale": decay_scale, "decay_degree": decay_degree, "warmup": warmup, "scale": scale}
        matrix = {"row_blocks": row_blocks, "method": method, "steps": steps, "precision": precision}
        MatrixOptimizer.__init__(self, params, {**defaults, **adam, **angular, **matrix, "maximize": maximize})

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if group["scale"] not in ("spectral", "rms"):
            raise ValueError(f"AngularMuown: scale must be 'spectral' or 'rms', got {group['scale']!r}")
        check_at_least("AngularMuown", 0, **{key: group[key] for key in ("decay_scale", "decay_degree", "warmup")})

    def _begin(self, p: Tensor, group: dict[str, Any]) -> None:
        super()._begin(p, group)
        self.state[p]["norm"].fill_(1)

    def _step_scale(self, group: dict[str, Any], count: int, shape: torch.Size) -> float:
        rows, columns = shape
        rms = super()._step_scale(group, count, shape)
        size = max(1, rows / columns) ** 0.5 if group["scale"] == "spectral" else rms
        passed = max(0, count - 1 - group["warmup"])
        return size / (1 + group["decay_scale"] * passed) ** group["decay_degree"]

    def _update(self, p: Tensor, group: dict[str, Any], state: dict[str, Any]) -> None:
        super()._update(p, group, state)
        state["norm"].fill_(1)
