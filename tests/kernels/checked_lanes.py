"""Kernels with vectors in registers as plain Python, where an index outside of its array raises.

Compiled code checks none: it would read and write what lies beside the array. Here registers have any size, too.
"""

from collections.abc import Callable
from types import FunctionType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

Index = int | slice


class Checked(np.ndarray):
    """An array whose indices neither wrap nor end outside of it."""

    def check(self, index: Any) -> None:
        indices = index if isinstance(index, tuple) else (index,)
        for axis, i in enumerate(indices):
            inside = range(self.shape[axis] + isinstance(i, slice))
            ends = [end for end in (i.start, i.stop) if end is not None] if isinstance(i, slice) else [i]
            if not all(end in inside for end in ends):
                raise IndexError(f"{index} is outside of {self.shape}")

    def __getitem__(self, index: Any) -> Any:
        self.check(index)
        return super().__getitem__(index)

    def __setitem__(self, index: Any, value: Any) -> None:
        self.check(index)
        super().__setitem__(index, value)


def checked(x: Any) -> Any:
    return np.ascontiguousarray(x).view(Checked)


def _place(x: Any, indices: tuple[int, ...], count: int) -> tuple[Index, ...]:
    assert len(indices) == x.ndim
    *rows, first = indices
    return (*rows, slice(first, first + count))


def _load(like: Any, x: Any, *indices: int) -> Any:
    assert like.dtype == x.dtype
    return np.array(x[_place(x, indices, len(like))])


def _store(value: Any, x: Any, *indices: int) -> None:
    assert value.dtype == x.dtype
    x[_place(x, indices, len(value))] = value


def _store4(a: Any, b: Any, c: Any, d: Any, x: Any, row: int, column: int) -> None:
    for i, value in enumerate((a, b, c, d)):
        _store(value, x, row + i, column)


def _copy(source: Any, target: Any) -> None:
    target[: source.shape[0], : source.shape[1]] = source


def _fma(a: Any, b: Any, c: Any) -> Any:
    return sum((a * b).reshape(-1, len(c)), start=c)


def in_python(kernels: ModuleType, register: int) -> Callable[[str], Callable[..., None]]:
    """Functions of `kernels` by name, for registers of so many bytes."""
    vectors = {
        "lanes": lambda like, count: np.zeros(count, like.dtype),
        "registers": lambda like, number: np.zeros(number * register // like.itemsize, like.dtype),
        "width": len,
        "first_of": lambda value: value[0],
        "load": _load,
        "spread": lambda like, x, *indices: np.full(len(like), _load(like[:1], x, *indices)),
        "store": _store,
        "load4": lambda like, x, row, column: tuple(_load(like, x, row + i, column) for i in range(4)),
        "store4": _store4,
        "fma": _fma,
        "choose": lambda a, b, x, y: np.where(a > b, x, y),
        "totals": lambda *rows: np.stack(rows).sum(1),
        "turn": lambda *rows: tuple(np.stack(rows, 1)),
    }
    numbers = SimpleNamespace(
        zeros=lambda shape, dtype: checked(np.zeros(shape, dtype)),
        arange=lambda count: checked(np.arange(count)),
        int32=np.int32,
    )
    others = {"np": numbers, "copy": _copy, "_exp": np.exp, "use_wide_vectors": lambda: None}
    names = vars(kernels) | vectors | others
    for name, value in vars(kernels).items():
        if hasattr(value, "py_func"):
            names[name] = FunctionType(value.py_func.__code__, names, name)
    return names.__getitem__
