"""The poles that layers can have, when their gates do not depend on the input.

Letters: S poles, m order or block size, R independent starts. Polynomials are those of `allpass_loss`.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from seqmix._suggest import unknown_name

__all__ = ["FAMILIES", "Family", "get_family"]


@dataclass(frozen=True)
class Family:
    """Poles of one kind of layer.

    Attributes:
        name: of the mixer.
        description: what its poles may be.
        start: (S, K, m, R, generator) to parameters (R, ...), float64, where a search begins.
        denominators: parameters to real polynomials (R, n, m + 1).
        by_order: whether m is a choice; the LRU's is 2, a pair of conjugates.
    """

    name: str
    description: str
    start: Callable[[int, int, int, int, Generator], Tensor]
    denominators: Callable[[Tensor], Tensor]
    by_order: bool = True


def get_family(name: str) -> Family:
    """The family of a mixer; an unknown name is a `ValueError` with the nearest ones."""
    if name not in FAMILIES:
        raise unknown_name("mixer with poles of its own:", name, FAMILIES)
    return FAMILIES[name]


def _pairs_start(n_poles: int, shift: int, order: int, starts: int, generator: Generator) -> Tensor:
    # The published pattern, radius e^{-alpha / K} and angles pi s / K, with several alpha and a little noise.
    n = n_poles // 2
    alpha = torch.logspace(-0.5, 1, starts, dtype=torch.float64)[:, None].expand(-1, n)
    angle = (torch.arange(n, dtype=torch.float64) + 0.5) * (torch.pi / max(shift, 2 * n))
    noise = 0.1 * torch.randn(2, starts, n, dtype=torch.float64, generator=generator)
    # As in the LRU: radius exp(-exp(nu_log)), angle exp(theta_log).
    return torch.stack([(alpha / max(shift, 1)).log() + noise[0], angle.log() + noise[1]], dim=1)


def _pairs(parameters: Tensor) -> Tensor:
    nu_log, theta_log = parameters.unbind(1)
    radius, angle = torch.exp(-torch.exp(nu_log)), torch.exp(theta_log)
    return torch.stack([torch.ones_like(radius), -2 * radius * torch.cos(angle), radius.square()], dim=-1)


def _orders_start(n_poles: int, shift: int, order: int, starts: int, generator: Generator) -> Tensor:
    # Logits of all gates; those of the input are small, so that little is forgotten.
    logits = 2 * torch.randn(starts, n_poles // order, order + 1, dtype=torch.float64, generator=generator)
    logits[..., -1] -= torch.linspace(0, 6, starts, dtype=torch.float64)[:, None]
    return logits


def _orders(logits: Tensor) -> Tensor:
    gates = logits.softmax(-1)[..., :-1]
    return torch.cat([torch.ones_like(gates[..., :1]), -gates], dim=-1)


def _blocks_start(n_poles: int, shift: int, order: int, starts: int, generator: Generator) -> Tensor:
    shape = (starts, n_poles // order, order, order + 1)
    logits = 2 * torch.randn(shape, dtype=torch.float64, generator=generator)
    logits[..., -1] -= torch.linspace(0, 6, starts, dtype=torch.float64)[:, None, None]
    return logits


def _blocks(logits: Tensor) -> Tensor:
    # det(1 - z A) of every block by Faddeev and LeVerrier: exact in m products, differentiable at equal eigenvalues.
    a = logits.softmax(-1)[..., :-1]
    identity = torch.eye(a.shape[-1], dtype=a.dtype)
    product, coefficients = a, [torch.ones_like(a[..., 0, 0])]
    for k in range(1, a.shape[-1] + 1):
        coefficients.append(-product.diagonal(dim1=-2, dim2=-1).sum(-1) / k)
        product = a @ (product + coefficients[-1][..., None, None] * identity)
    return torch.stack(coefficients, dim=-1)


FAMILIES = {
    "lru": Family("lru", "any conjugate pairs in the disc", _pairs_start, _pairs, by_order=False),
    "h-lru": Family("h-lru", "roots of z^m = sum_i a_i z^(m-i), a softmax gates", _orders_start, _orders),
    "bd-lru": Family("bd-lru", "eigenvalues of m x m blocks with softmax rows", _blocks_start, _blocks),
}
