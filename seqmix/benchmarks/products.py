"""The matrix products of a step: which it makes, and what they take by themselves."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["products_of", "replay"]

_aten = torch.ops.aten
_PRODUCTS = (_aten.mm.default, _aten.addmm.default, _aten.bmm.default, _aten.baddbmm.default)
Product = tuple[Any, tuple[Tensor, ...]]  # the op, and tensors of the shapes and strides that it had


class _Seen(TorchDispatchMode):
    """Notes the products that run under it; those within compiled ops and LSTM loops belong to these."""

    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _PRODUCTS:
            self.products.append((func, tuple(map(_like, args))))
        return func(*args, **(kwargs or {}))


def _like(tensor: Tensor) -> Tensor:
    # Expanded tensors have fewer numbers in memory than they show.
    extent = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return torch.randn(extent, dtype=tensor.dtype, device=tensor.device).as_strided(tensor.shape, tensor.stride())


def products_of(step: Callable[[], object]) -> list[Product]:
    """Every matrix product of one call of `step`, forward and backward, in its order.

    Example:
        >>> layer = torch.nn.Linear(3, 4)
        >>> found = products_of(lambda: layer(torch.ones(2, 5, 3)).sum().backward())
        >>> [[tuple(tensor.shape) for tensor in tensors] for _, tensors in found]
        [[(4,), (10, 3), (3, 4)], [(4, 10), (10, 3)]]
    """
    with _Seen() as seen:
        step()
    return seen.products


def replay(products: list[Product]) -> Callable[[], object]:
    """A call that makes these products and nothing else, one after the other."""
    calls = [partial(func, *tensors) for func, tensors in products]

    @torch.no_grad()
    def run() -> None:
        for call in calls:
            call()

    return run
