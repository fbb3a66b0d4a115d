"""What a mixer remembers between calls: NamedTuples of tensors, batch (or packed sequence) first.

A state is a value: no mixer changes one in place. Being a NamedTuple it is a pytree, so `torch.utils._pytree`,
`torch.compile` and `torch.func` walk through it.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

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


def select(state: State, index: Tensor | slice | list[int] | int) -> State:
    """The state of some sequences: `index` picks along the batch axis, an int keeps that axis with size one."""
    if isinstance(index, int):
        index = [index]
    if isinstance(index, list):
        index = torch.tensor(index)
    if isinstance(index, Tensor) and index.dtype != torch.bool:
        positions = index
        return map_state(lambda leaf: leaf.index_select(0, positions.to(leaf.device)), state)
    return map_state(lambda leaf: leaf[index], state)


def mixer_state(cls: type[T]) -> type[T]:
    """Class decorator for a state's NamedTuple: adds `.detach()` and `.select(index)`."""
    cls.detach = detach  # type: ignore[attr-defined]
    cls.select = select  # type: ignore[attr-defined]
    return cls
