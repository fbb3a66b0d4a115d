"""Anti-PGD: gradient steps with anticorrelated noise, around any optimizer.

    x_{k+1} = x_k - (step of the optimizer) + xi_{k+1} - xi_k,   xi_k ~ N(0, sigma^2) for every coordinate, xi_0 = 0

All noise so far is the last xi: z = x - xi makes the steps of the optimizer with gradients at z + xi, that is on
f + sigma^2 / 2 tr Hess f to second order, which prefers flat minima. Source: 2202.02831, equation 3. The increments go
into the parameters; in the gradient momentum would filter them.
"""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer

from seqmix._checks import positive
from seqmix.optim.base import at_rest, check_at_least

__all__ = ["AntiPGD", "NoiseWrapper"]


class NoiseWrapper(Optimizer):
    """An optimizer around another one that adds noise after each step; groups, state and arguments are the other's.

    Nothing is added to the parameters of a group whose rate is 0.

    The noise is a function of `seed` and the number of steps, so that every rank draws the same and a run that is
    resumed goes on with what it would have drawn. Groups hold `sigma` and `noise_step`.
    """

    base: Optimizer

    def __init__(self, base: Optimizer, sigma: float, seed: int) -> None:
        owner = type(self).__name__
        if not isinstance(base, Optimizer):
            raise ValueError(f"{owner}: base must be an optimizer, got {type(base).__name__}")
        check_at_least(owner, 0, sigma=sigma)
        self.seed = positive(owner, "seed", seed, 0, "a whole number of at least 0")
        self.own = {"sigma": float(sigma), "noise_step": 0}
        for group in base.param_groups:
            self._prepare(group)
        super().__init__(base.param_groups, {})
        self.base, self.defaults = base, base.defaults
        self._link()

    def _prepare(self, group: dict[str, Any]) -> None:
        for key, value in self.own.items():
            group.setdefault(key, value)
        self._refuse(group["params"])

    def _refuse(self, params: Iterable[Any]) -> None:
        for given in params:
            p = given[1] if isinstance(given, tuple) else given  # with its name
            if hasattr(p, "full_tensor") or p.is_complex():
                raise NotImplementedError(f"{type(self).__name__}: noise on sharded or complex parameters")

    def _link(self) -> None:
        self.param_groups, self.state = self.base.param_groups, self.base.state

    def step(self, closure: Callable[[], Any] | None = None, **kwargs: Any) -> Any:
        """The base's step with these arguments, then the noise; returns what the base returns."""
        result = self.base.step(closure, **kwargs)
        with torch.no_grad():
            streams: dict[torch.device, torch.Generator] = {}
            for group in self.param_groups:
                group["noise_step"] += 1
                still = at_rest(group)
                for p in group["params"]:
                    if p.grad is not None and still:
                        self._begin(p)
                    elif p.grad is not None:
                        stream = streams.get(p.device) or self._stream(group["noise_step"], p.device)
                        streams[p.device] = stream
                        self._inject(p, group, stream)
        return result

    def _stream(self, step: int, device: torch.device) -> torch.Generator:
        seed = np.random.SeedSequence((self.seed, step)).generate_state(1, np.uint64)[0]
        return torch.Generator(device).manual_seed(int(seed) >> 1)

    def _begin(self, p: Tensor) -> None:
        """The state of a parameter before its first noise, where it has none: a checkpoint is loaded into it."""
        raise NotImplementedError

    def _inject(self, p: Tensor, group: dict[str, Any], stream: torch.Generator) -> None:
        raise NotImplementedError

    def zero_grad(self, set_to_none: bool = True) -> None:
        self.base.zero_grad(set_to_none)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        if "base" not in self.__dict__:
            super().add_param_group(param_group)
            return
        given = param_group["params"]
        members = given if isinstance(given, Tensor | set) else list(given)  # the base refuses sets
        self._refuse([members] if isinstance(members, Tensor) else members)
        self.base.add_param_group({**param_group, "params": members})
        group = self.base.param_groups[-1]
        group.setdefault("noise_step", self.param_groups[0]["noise_step"])  # one stream serves all groups
        self._prepare(group)
        self._link()

    def state_dict(self) -> dict[str, Any]:
        return self.base.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.base.load_state_dict(state_dict)
        self._link()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "base": self.base, "seed": self.seed, "own": self.own}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._link()


class AntiPGD(NoiseWrapper):
    """Anticorrelated noise around an optimizer; one more buffer, `noise`.

    Args:
        base: any torch optimizer; by name `create_optimizer("anti-pgd", model, base={"name": "sgd"}, lr=0.1)`.
        sigma: standard deviation of xi.
        seed: of the noise.

    Raises:
        ValueError: a base that is no optimizer, a negative sigma or seed.
        NotImplementedError: sharded or complex parameters.

    Example:
        >>> import torch
        >>> from seqmix.optim import AntiPGD
        >>> layer = torch.nn.Linear(3, 1)
        >>> optimizer = AntiPGD(torch.optim.SGD(layer.parameters(), lr=0.1), sigma=0.01)
        >>> layer(torch.ones(2, 3)).square().mean().backward()
        >>> optimizer.step()
    """

    def __init__(self, base: Optimizer, sigma: float = 1e-2, seed: int = 0) -> None:
        super().__init__(base, sigma, seed)

    def _inject(self, p: Tensor, group: dict[str, Any], stream: torch.Generator) -> None:
        self._begin(p)
        noise = self._draw(p, group, stream)
        p.add_(noise - self.state[p]["noise"])
        self.state[p]["noise"] = noise

    def _draw(self, p: Tensor, group: dict[str, Any], stream: torch.Generator) -> Tensor:
        return torch.empty_like(p).normal_(0, group["sigma"], generator=stream)

    def _begin(self, p: Tensor) -> None:
        if "noise" not in self.state[p]:
            self.state[p]["noise"] = torch.zeros_like(p)
