"""How CPU kernels are compiled: no GIL, IEEE division, fused multiply-add, kept on disk where that is possible."""

from collections.abc import Callable
from typing import Any

import numba


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
