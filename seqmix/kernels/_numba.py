"""How CPU kernels are compiled: no GIL, IEEE division, fused multiply-add, kept on disk where that is possible.

Numba keeps what it compiled beside the file of a function, and compiles it again when that file changes, but not when
a function that it calls changes in another file: old machine code would go on giving old numbers. So a kernel's helpers
stand in its own file, and where two kernels need the same one, `_exp`, `_tanh`, `_dot` or `_eliminate`, each
has a copy; a test keeps the copies alike. Of `_lanes.py` and `_tiles.py`, which are too long for copies, the files that
use them name a digest. Here stands only what has no formula that anybody might edit.
"""

from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic, overload


def jit(*flags: str) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: `numba.njit` with seqmix's options; `flags` are extra fast-math flags such as `"reassoc"`.

    Only contraction (FMA) is on by default: NaN and infinity keep their meaning, sums keep their order.
    """
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", *flags}}

    def compile_lazily(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # Numba found no folder that it may write its cache to
            return numba.njit(**options)(function)

    return compile_lazily


def _use_wide_vectors(typing_context: Any) -> Any:
    """Let LLVM use 512-bit registers in the function that calls this: it avoids them, at a third of the speed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if isinstance(builder.function.attributes, set):  # llvmlite's own `add` knows no attributes with values
            set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate


def _bits(typing_context: Any, value: Any, target: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.bitcast(arguments[0], context.get_value_type(target))

    return target(value), generate


def _as_float32(typing_context: Any, bits: Any) -> Any:
    """The float32 with these 32 bits."""
    return _bits(typing_context, types.int32, types.float32)


def _as_int32(typing_context: Any, number: Any) -> Any:
    """The 32 bits of a float32."""
    return _bits(typing_context, types.float32, types.int32)


def copy(source: Any, target: Any) -> None:
    """Vectors and matrices, number by number; in place of `target[:] = source`.

    For that Numba compiles, for three seconds in every process that has no cache, what it would say of shapes that
    differ, and its own loop costs ten times as much for vectors this short.
    """
    raise NotImplementedError("compiled code only")


@overload(copy)
def _copy_for(source: Any, target: Any) -> Any:
    def copy_vector(source: Any, target: Any) -> None:
        for i in range(len(source)):
            target[i] = source[i]

    def copy_matrix(source: Any, target: Any) -> None:
        for i in range(source.shape[0]):
            for j in range(source.shape[1]):
                target[i, j] = source[i, j]

    return copy_vector if source.ndim == 1 else copy_matrix


# What compiled code calls has other arguments than what makes its code.
use_wide_vectors: Any = intrinsic(_use_wide_vectors)
as_float32: Any = intrinsic(_as_float32)
as_int32: Any = intrinsic(_as_int32)
