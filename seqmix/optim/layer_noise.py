"""LayerNoise: Anti-PGD in one layer at a time, around any optimizer.

    x_{k+1} = x_k - (step of the optimizer) + e_{k+1} xi_{k+1} - e_k xi_k,   xi_k ~ N(0, sigma^2)

e_k keeps the layer whose turn it is: each gradient is taken with noise in one layer alone, and the noise is taken back
before the next. The loss then sees sigma^2 / 2 times the trace of one block of the Hessian. Noise in all layers at once
is multiplied from layer to layer and grows with the width. Source: Orvieto et al. 2023, "Explicit regularization in
overparametrized models via noise injection" (2206.04613).
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from seqmix.optim.anti_pgd import AntiPGD

__all__ = ["LayerNoise"]


class LayerNoise(AntiPGD):
    """Noise in one layer at a time, in turn; one more buffer, `noise`.

    A layer is a parameter with two axes or more, with the vectors that follow it in its group.

    Args:
        base: any torch optimizer; by name `create_optimizer("layer-noise", model, base={"name": "sgd"}, lr=0.1)`.
        sigma: standard deviation of xi.
        seed: of the noise.

    Raises:
        ValueError: a base that is no optimizer, a negative sigma or seed.
        NotImplementedError: sharded or complex parameters.

    Example:
        >>> import torch
        >>> from seqmix.optim import LayerNoise
        >>> net = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.Linear(4, 1))
        >>> optimizer = LayerNoise(torch.optim.SGD(net.parameters(), lr=0.1), sigma=0.01)
        >>> net(torch.ones(2, 3)).square().mean().backward()
        >>> optimizer.step()
    """

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """The base's step with these arguments, then the noise of the next layer; returns what the base returns."""
        self._layer: dict[Tensor, int] = {}
        count = -1
        for group in self.param_groups:
            for index, p in enumerate(group["params"]):
                count += index == 0 or p.ndim >= 2
                self._layer[p] = count
        self._count = count + 1
        return super().step(closure, **kwargs)

    def _draw(self, p: Tensor, group: dict[str, Any], stream: torch.Generator) -> Tensor:
        its_turn = self._layer[p] == (group["noise_step"] - 1) % self._count
        return super()._draw(p, group, stream) if its_turn else torch.zeros_like(p)
