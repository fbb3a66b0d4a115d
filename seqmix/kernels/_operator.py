"""The one way in which an op of kernels is made known to torch."""

from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from seqmix.kernels.transforms import HOW, refuse_transforms

__all__ = ["Operator", "operator"]


class Operator:
    """A `torch.library` op that refuses what kernels cannot follow, and hands an empty batch on.

    Args:
        name: without the namespace.
        owner: what messages call it.
        function: the kernels, typed as `torch.library.custom_op` wants it.
        values: which argument is a tensor (B, T, ...).
        schema: its arguments and results as torch writes them, in place of types.
    """

    def __init__(
        self, name: str, owner: str, function: Callable[..., Any], values: int, schema: str | None = None
    ) -> None:
        self.owner, self._fake = owner, function
        self.backward: Operator | None = None  # its backward pass, where it has one of its own

        @wraps(function)
        def run(*args: Any) -> tuple[Tensor, ...]:
            # B = 0: nothing comes out, and the gradients of what all sequences share are zero.
            if args[values].shape[0] == 0:
                return tuple(output.zero_() for output in self._fake(*args))
            return function(*args)

        self.op = torch.library.custom_op(f"seqmix::{name}", mutates_args=(), schema=schema)(run)

    def __call__(self, *args: Any) -> Any:
        """The outputs; `NotImplementedError` under forward-mode AD and `torch.func`."""
        refuse_transforms(self.owner, *args)
        return self.op(*args)

    def register_fake(self, fake: Callable[..., Any]) -> None:
        """The outputs' shapes."""
        self._fake = fake
        self.op.register_fake(fake)

    def register_autograd(self, backward: Callable[..., Any], *, setup_context: Callable[..., Any]) -> None:
        """As in `torch.library`."""
        self.op.register_autograd(backward, setup_context=setup_context)

    def once(self) -> None:
        """A backward pass, which cannot be differentiated again."""

        def refuse(ctx: object, *grads: Tensor) -> None:
            raise NotImplementedError(f"{self.owner}: second derivatives need {HOW}")

        self.op.register_autograd(refuse)


def operator(name: str, owner: str, values: int = 0) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator: register `seqmix::<name>`; arguments as in `Operator`."""
    return lambda function: Operator(name, owner, function, values)
