"""What a mixer remembers between calls: NamedTuples of tensors, batch (or packed sequence) first.

A state is a value: no mixer changes one in place (but see `seqmix.kernels.states_in_place`). Being a NamedTuple it is
a pytree, so `torch.utils._pytree`, `torch.compile` and `torch.func` walk through it.
"""

import operator
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from seqmix.kernels.checks import describe

Device = torch.device | str | None
DType = torch.dtype | None
State = Any  # a NamedTuple decorated with `mixer_state`; `Any` because NamedTuples share no base class
T = TypeVar("T")


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """`state` with `function` applied to every tensor, nested states and tuples included."""
    if isinstance(state, Tensor):
        return function(state)
    mapped = (map_state(function, leaf) for leaf in state)
    return type(state)(*mapped) if hasattr(state, "_fields") else type(state)(mapped)


def detach(state: State) -> State:
    """`state` cut from the autograd graph: truncated backpropagation through time."""
    return map_state(Tensor.detach, state)


def select(state: State, index: Tensor | slice | Sequence[int] | int) -> State:
    """The state of some sequences, picked along the batch axis; a single number keeps that axis with size one.

    `index` is a number, a slice, numbers in a list or tensor, or a boolean mask; negative numbers count from the end.
    """
    if isinstance(index, slice):
        return map_state(lambda leaf: leaf[index], state)
    if not isinstance(index, Tensor):
        numbers = index if isinstance(index, Sequence) else [index]
        index = torch.tensor([operator.index(number) for number in numbers], dtype=torch.long)
    rows = index.reshape(-1) if index.ndim == 0 else index
    return map_state(lambda leaf: leaf[rows.to(leaf.device)], state)


def check_leaves(owner: str, state: State, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """`ValueError` unless every tensor of a state has this shape and type."""
    for name, leaf in zip(state._fields, state, strict=True):
        if leaf.shape != shape or leaf.dtype != dtype:
            raise ValueError(f"{owner}: state.{name} must be {dtype} of shape {shape}, got {describe(leaf)}")


def check_shapes(owner: str, state: State, **shapes: tuple[int, ...]) -> None:
    """`ValueError` unless these tensors of a state have these shapes, behind the sequences: kernels do not look."""
    for name, shape in shapes.items():
        leaf = getattr(state, name)
        if leaf.shape[1:] != shape:
            raise ValueError(f"{owner}: state.{name} must have shape (S, {str(shape)[1:-1]}), got {describe(leaf)}")


def summary(state: State) -> str:
    """`BDLRUState(h=float32 of shape (2, 8, 4) on cpu)`: what a state holds, without its numbers."""
    if isinstance(state, Tensor):
        return describe(state)
    if hasattr(state, "_fields"):
        fields = zip(state._fields, state, strict=True)
        return f"{type(state).__name__}({', '.join(f'{name}={summary(leaf)}' for name, leaf in fields)})"
    if isinstance(state, tuple | list):
        return f"({', '.join(summary(leaf) for leaf in state)}{',' if len(state) == 1 else ''})"
    return repr(state)


def mixer_state(cls: type[T]) -> type[T]:
    """Class decorator for a state's NamedTuple: adds `.detach()` and `.select(index)`; printed, it is a summary."""
    cls.detach = detach  # type: ignore[attr-defined]
    cls.select = select  # type: ignore[attr-defined]
    cls.__repr__ = summary  # type: ignore[method-assign, assignment]
    return cls
