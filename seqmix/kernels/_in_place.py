"""`states_in_place`: decoding that writes each state over the one before it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from seqmix.kernels._memory import empty_like

__all__ = ["called_in_place", "final_like", "states_in_place"]

_wanted: ContextVar[bool] = ContextVar("seqmix.kernels.states_in_place", default=False)
_granted: ContextVar[bool] = ContextVar("seqmix.kernels.states_granted", default=False)


@contextmanager
def states_in_place() -> Iterator[None]:
    """Inside, an op on a CPU may write the final state over the initial one that it was given.

    For loops that never look back, as `SequenceModel.generate` has one: matrix states need not be mapped and cleared
    anew for every token, which at large batches takes as long as the step. A state that goes into a layer must not
    be used again. Numbers are the same. Where gradients are enabled, in a compiled graph, and elsewhere than on a CPU,
    nothing changes.

    Example:
        >>> import torch
        >>> from seqmix import GatedLinearAttention
        >>> from seqmix.kernels import states_in_place
        >>> layer, x = GatedLinearAttention(d_model=64), torch.randn(2, 10, 64)
        >>> with torch.no_grad(), states_in_place():
        ...     _, state = layer(x[:, :1])
        ...     place = state.S.data_ptr()
        ...     for t in range(1, 10):
        ...         y, state = layer.step(x[:, t], state)
        >>> state.S.data_ptr() == place
        True
    """
    token = _wanted.set(True)
    try:
        yield
    finally:
        _wanted.reset(token)


def called_in_place(op: Callable[..., Any], function: Callable[..., Any], grant: bool, args: tuple[Any, ...]) -> Any:
    """`op(*args)`, or its `function` past torch's register, which takes time and no output that is an input.

    An op without `grant` may read a state twice, and so may what it calls: fixed-point layers do.
    """
    if torch.compiler.is_compiling() or not _wanted.get():
        return op(*args)
    # Tensors that only stand for others (fakes) are the register's.
    plain = all(type(arg) in (Tensor, nn.Parameter) and arg.is_cpu for arg in args if isinstance(arg, Tensor))
    past = plain and not torch.is_grad_enabled()
    wanted, granted = _wanted.set(False), _granted.set(past and grant)
    try:
        return (function if past else op)(*args)
    finally:
        _granted.reset(granted)
        _wanted.reset(wanted)


def final_like(initial: Tensor) -> Tensor:
    """Contiguous room for the state after `initial`: in `states_in_place` its own, so kernels must have read it."""
    return initial if _granted.get() and initial.is_contiguous() else empty_like(initial)
