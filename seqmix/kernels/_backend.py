"""Which code runs an op: `"reference"` (plain torch), `"cpu"` (Numba) or `"triton"`."""

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

BACKENDS = ("reference", "cpu", "triton")

_preferred: str | None = None


# (folder of an op, backend) for every file of kernels whose compiler is installed. Looked up once, by file name:
# `choose_backend` runs under torch.compile, which cannot trace the import system.
_COMPILERS = {"cpu": "numba", "triton": "triton"}
_AVAILABLE = frozenset(
    (f"{__package__}.{file.parent.name}", file.stem)
    for file in Path(__file__).parent.glob("*/*.py")
    if file.stem in _COMPILERS and importlib.util.find_spec(_COMPILERS[file.stem])
)


@contextmanager
def prefer_backend(backend: str) -> Iterator[None]:
    """Inside, `backend=None` means this one: layers choose none, and second derivatives need the reference."""
    global _preferred
    before, _preferred = _preferred, backend
    try:
        yield
    finally:
        _preferred = before


@cache
def load_kernels(package: str, backend: str) -> ModuleType:
    """The module with `forward` and `backward` of one op, imported when first used."""
    return importlib.import_module(f"{package}.{backend}")


def choose_backend(op: str, package: str, backend: str | None, *tensors: Tensor | None) -> str:
    """Resolve `backend` for these tensors; raise where it cannot run them.

    Also refuses forward-mode AD outside `"reference"`: a custom op would drop the tangents without a word.
    """
    device = next(t for t in tensors if t is not None).device.type
    if backend is None:
        native = {"cpu": "cpu", "cuda": "triton"}.get(device)
        backend = _preferred or (native if (package, native) in _AVAILABLE else "reference")
    if backend not in BACKENDS:
        raise ValueError(f"{op}: backend must be None or one of {', '.join(BACKENDS)}, got {backend!r}")
    if backend == "reference":
        return backend
    interpreted = backend == "triton" and os.environ.get("TRITON_INTERPRET") == "1"
    if device != {"cpu": "cpu", "triton": "cuda"}[backend] and not (interpreted and device == "cpu"):
        hint = ": set TRITON_INTERPRET=1 before Python starts to interpret the kernels" if backend == "triton" else ""
        raise ValueError(f"{op}: backend {backend!r} cannot run tensors on {device}{hint}")
    if (package, backend) not in _AVAILABLE:
        raise NotImplementedError(f"{op}: no {backend!r} kernels here; use backend='reference'")
    if has_tangents(*tensors):
        raise NotImplementedError(f"{op}: forward-mode AD needs backend='reference', got {backend!r}")
    return backend


def in_chunks(package: str, device: torch.device) -> bool:
    """Whether plain torch runs an op in chunks: where a device has no kernels for it, and launches cost the most."""
    return device.type != "cpu" and (package, {"cuda": "triton"}.get(device.type)) not in _AVAILABLE


def has_tangents(*tensors: Tensor | None) -> bool:
    """Whether forward-mode AD runs through any of `tensors`; an op without a rule for it would drop the tangents."""
    # The level is -1 outside forward-mode AD, so ordinary calls pay one comparison.
    if forward_ad._current_level < 0:
        return False
    # torch.compile cannot look at tangents; inside a dual level it has to assume that there are some.
    return torch.compiler.is_compiling() or any(
        tensor is not None and forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors
    )


def refuse_double_backward(op: str):  # type: ignore[no-untyped-def]
    """An autograd formula for a backward op that says why there is none."""

    def raise_by_name(ctx: object, *grads: Tensor) -> None:
        raise NotImplementedError(f"{op}: second derivatives need backend='reference'")

    return raise_by_name


def outside_autocast(op):  # type: ignore[no-untyped-def]
    """`op` in the types of its arguments, also where its backward pass is called under autocast."""

    @wraps(op)
    def run(first: Tensor, *args: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return op(first, *args)

    return run
