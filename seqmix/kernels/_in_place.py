"""`states_in_place`: decoding that writes each state over the one before it."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn

from seqmix.kernels._memory import empty_like

__all__ = ["final_like", "granting", "is_wanted", "may_pass_the_register", "states_in_place"]

_wanted: ContextVar[bool] = ContextVar("seqmix.kernels.states_in_place", default=False)
_granted: ContextVar[Tensor | None] = ContextVar("seqmix.kernels.granted_state", default=None)


@contextmanager
def states_in_place() -> Iterator[None]:
    """Inside, an op on a CPU may write the final state over the initial one that it was given.

    For loops that never look back, as `SequenceModel.generate` has one: matrix states need not be mapped and cleared
    anew for every token, which at large batches takes as long as the step. Numbers are the same. What goes into a
    layer as its state must not be used again, and no view of it either. Parameters and what shows them are never
    written over. Nothing changes in a compiled graph, elsewhere than on a CPU, and where gradients are enabled, on
    entering or inside. It holds for the thread or task that enters it; a generator must not yield inside.

    Example:
        >>> import torch
        >>> from seqmix import GatedLinearAttention
        >>> from seqmix.kernels import states_in_place
        >>> layer, x = GatedLinearAttention(d_model=64), torch.randn(2, 10, 64)
        >>> with torch.no_grad():
        ...     _, state = layer(x[:, :1])
        ...     place = state.S.data_ptr()
        ...     with states_in_place():
        ...         for t in range(1, 10):
        ...             y, state = layer.step(x[:, t], state)
        >>> state.S.data_ptr() == place
        True
    """
    if torch.compiler.is_compiling():  # which cannot follow a context variable
        yield
        return
    # Not where gradients come on entering: what runs in there without them may be run again, as by checkpoints.
    token = _wanted.set(not torch.is_grad_enabled())
    try:
        yield
    finally:
        _wanted.reset(token)


def is_wanted() -> bool:
    """Whether this call is in `states_in_place`."""
    return _wanted.get()


def may_pass_the_register(args: tuple[Any, ...]) -> bool:
    """Whether to call kernels past torch's register, which takes no output that is an input, and takes time itself.

    Not where somebody watches what is called, or where tensors only stand for others.
    """
    if torch.is_grad_enabled() or torch._C._len_torch_dispatch_stack() or torch.jit.is_tracing():
        return False
    if torch.autograd._profiler_enabled():
        return False
    return all(type(arg) in (Tensor, nn.Parameter) and arg.is_cpu for arg in args if isinstance(arg, Tensor))


@contextmanager
def granting(state: Tensor | None) -> Iterator[None]:
    """Inside, `final_like(state)` is `state` itself, and nothing that is called there is granted another one.

    None is for code that reads states more than once: all are kept.
    """
    wanted, granted = _wanted.set(False), _granted.set(state)
    try:
        yield
    finally:
        _granted.reset(granted)
        _wanted.reset(wanted)


def final_like(initial: Tensor) -> Tensor:
    """Contiguous room for the state after `initial`: its own where that is granted, so a kernel must have read it."""
    learned = initial.requires_grad or (initial._base is not None and initial._base.requires_grad)
    if initial is not _granted.get() or learned or not initial.is_contiguous():
        return empty_like(initial)
    torch.autograd.graph.increment_version(initial)  # as any change in place: who saved it for gradients is told
    return initial
