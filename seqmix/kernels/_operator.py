"""The one way in which an op of kernels is made known to torch."""

import sys
from collections.abc import Callable
from functools import wraps
from typing import Any

import torch
from torch import Tensor

from seqmix.kernels._in_place import granting, is_wanted, may_pass_the_register
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
        state: which argument is a state that kernels may write over, see `seqmix.kernels.states_in_place`; none if
            None.
    """

    def __init__(
        self,
        name: str,
        owner: str,
        function: Callable[..., Any],
        values: int,
        schema: str | None = None,
        state: int | None = None,
    ) -> None:
        self.owner, self._fake = owner, function
        self.backward: Operator | None = None  # its backward pass, where it has one of its own

        @wraps(function)
        def run(*args: Any) -> tuple[Tensor, ...]:
            # B = 0: nothing comes out, and the gradients of what all sequences share are zero.
            if args[values].shape[0] == 0:
                return tuple(output.zero_() for output in self._fake(*args))
            return function(*args)

        self._run, self._state = run, state
        self.op = torch.library.custom_op(f"seqmix::{name}", mutates_args=(), schema=schema)(run)
        _spare_the_compiler(self.op)

    def __call__(self, *args: Any) -> Any:
        """The outputs; `NotImplementedError` under forward-mode AD and `torch.func`."""
        refuse_transforms(self.owner, *args)
        if torch.compiler.is_compiling() or not is_wanted():
            return self.op(*args)
        passes = may_pass_the_register(args)
        with granting(args[self._state] if passes and self._state is not None else None):
            return (self._run if passes else self.op)(*args)

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


def _spare_the_compiler(op: Any) -> None:
    """Let eager calls go without torch's compiler, which a custom op imports when first called, to keep it out.

    That takes longer than everything else in the first step; where nobody has imported it, nothing has to be kept out.
    """
    kernels = getattr(op, "_backend_fns", {})
    for device, guarded in kernels.items():
        if hasattr(guarded, "__wrapped__"):

            def call(*args: Any, guarded: Any = guarded, **kwargs: Any) -> Any:
                return (guarded if "torch._dynamo" in sys.modules else guarded.__wrapped__)(*args, **kwargs)

            kernels[device] = wraps(guarded)(call)


def operator(name: str, owner: str, values: int = 0) -> Callable[[Callable[..., Any]], Operator]:
    """Decorator: register `seqmix::<name>`; arguments as in `Operator`."""
    return lambda function: Operator(name, owner, function, values)
