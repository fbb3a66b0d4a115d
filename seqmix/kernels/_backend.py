"""Which code runs an op: `"reference"` (plain torch), `"cpu"` (Numba) or `"triton"`."""

import importlib
import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, wraps
from pathlib import Path
from threading import Lock
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

BACKENDS = ("reference", "cpu", "triton")

_chosen: ContextVar[str | None] = ContextVar("seqmix.kernels.backend", default=None)

# torch.compile can neither read a context variable nor guard on one. A compiled graph sees this global instead: the
# newest choice that some thread is still inside of.
_newest: str | None = None
_in_force: dict[int, str | None] = {}
_lock, _numbers = Lock(), itertools.count()


# (folder of an op, backend) for every file of kernels whose compiler is installed. Looked up once, by file name:
# `choose_backend` runs under torch.compile, which cannot trace the import system.
_COMPILERS = {"cpu": "numba", "triton": "triton"}
_AVAILABLE = frozenset(
    (f"{__package__}.{file.parent.name}", file.stem)
    for file in Path(__file__).parent.glob("*/*.py")
    if file.stem in _COMPILERS and importlib.util.find_spec(_COMPILERS[file.stem])
)


@contextmanager
def backend(name: str | None) -> Iterator[None]:
    """Inside, every op and layer that is not told otherwise runs on this backend; None means by device.

    Under `"reference"` all is plain torch, attention, LSTM and fixed points too: second derivatives, forward-mode AD
    and the transforms of `torch.func` work there, and nowhere else. It is slow. The choice holds for the thread and
    task that make it. A compiled function is compiled again for another choice; what other threads choose meanwhile
    may change how it runs, never what it computes.

    Raises:
        ValueError: an unknown name.

    Example:
        >>> import torch
        >>> from seqmix import LRU
        >>> from seqmix.kernels import backend
        >>> layer, x = LRU(d_model=4), torch.randn(1, 3, 4)
        >>> with backend("reference"):
        ...     hessian = torch.func.hessian(lambda x: layer(x)[0].square().sum())(x)
        >>> hessian.shape
        torch.Size([1, 3, 4, 1, 3, 4])
    """
    global _newest
    if name is not None and name not in BACKENDS:
        raise ValueError(f"backend: name must be None or one of {', '.join(BACKENDS)}, got {name!r}")
    if torch.compiler.is_compiling():
        before, _newest = _newest, name
        try:
            yield
        finally:
            _newest = before
        return
    number, token = next(_numbers), _chosen.set(name)
    with _lock:
        _in_force[number] = _newest = name
    try:
        yield
    finally:
        _chosen.reset(token)
        with _lock:
            del _in_force[number]
            _newest = next(reversed(_in_force.values()), None)


def preferred() -> str | None:
    """What `backend` chose for this call, None outside of it."""
    return _newest if torch.compiler.is_compiling() else _chosen.get()


@cache
def load_kernels(package: str, backend: str) -> ModuleType:
    """The module with `forward` and `backward` of one op, imported when first used."""
    return importlib.import_module(f"{package}.{backend}")


def choose_backend(op: str, package: str, backend: str | None, *tensors: Tensor | None) -> str:
    """Resolve `backend` for these tensors; raise where it cannot run them."""
    device = next(t for t in tensors if t is not None).device.type
    if backend is None:
        native = {"cpu": "cpu", "cuda": "triton"}.get(device)
        backend = preferred() or (native if (package, native) in _AVAILABLE else "reference")
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
    return backend


def in_chunks(package: str, device: torch.device) -> bool:
    """Whether plain torch runs an op in chunks: where a device has no kernels for it, and launches cost the most."""
    return device.type != "cpu" and (package, {"cuda": "triton"}.get(device.type)) not in _AVAILABLE


def outside_autocast(op: Callable[..., Any]) -> Callable[..., Any]:
    """`op` in the types of its arguments, also where its backward pass is called under autocast."""

    @wraps(op)
    def run(first: Tensor, *args: Any) -> Any:
        with torch.autocast(first.device.type, enabled=False):
            return op(first, *args)

    return run
