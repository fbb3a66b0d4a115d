"""How CPU kernels are compiled: no GIL, IEEE division, fused multiply-add, kept on disk where that is possible."""

from collections.abc import Callable
from typing import Any

import numba
from numba import types
from numba.extending import intrinsic


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


@intrinsic
def use_wide_vectors(typing_context: Any) -> Any:
    """Let LLVM use 512-bit registers in the function that calls this: it avoids them, at a third of the speed."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        if isinstance(builder.function.attributes, set):  # llvmlite's own `add` knows no attributes with values
            set.add(builder.function.attributes, '"prefer-vector-width"="512"')
        return context.get_dummy_value()

    return types.void(), generate
