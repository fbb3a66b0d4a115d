"""Makes Triton's interpreter scan as a GPU does, in a tree, and spares it work that it does at every call."""

from typing import Any

import numpy as np
import triton
import triton.language
from triton.runtime import interpreter


def _generic_scan(self: Any, tensors: tuple[Any, ...]) -> list[Any]:
    """Kogge and Stone: after step k every element holds the combination of the 2^k elements up to it."""
    types = [tensor.dtype for tensor in tensors]
    tiles = [tensor.handle.data for tensor in tensors]
    position = np.arange(tiles[0].shape[self.axis]).reshape([-1 if i == self.axis else 1 for i in range(tiles[0].ndim)])
    shift = 1
    while shift < tiles[0].shape[self.axis]:
        earlier = [np.roll(tile, shift, self.axis) for tile in tiles]
        arguments = [self.to_tensor(tile, dtype) for tile, dtype in zip(earlier + tiles, types * 2, strict=True)]
        combined = self.combine_fn.fn(*arguments)
        combined = combined if isinstance(combined, tuple) else (combined,)
        tiles = [np.where(position >= shift, new.handle.data, old) for new, old in zip(combined, tiles, strict=True)]
        shift *= 2
    return [self.to_tensor(tile, dtype) for tile, dtype in zip(tiles, types, strict=True)]


class _Language:
    """Stands for a kernel that sees the language both ways, as kernels and as Triton's own library do."""

    __globals__ = {"tl": triton.language, "core": triton.language.core}


def prepare() -> None:
    """Once in a process."""
    interpreter.ScanOps.generic_scan = _generic_scan
    # The interpreter puts its operations into the language at every call of every function, which is most of its time.
    interpreter._patch_lang(_Language)
    interpreter._patch_lang = lambda function: interpreter._LangPatchScope()
