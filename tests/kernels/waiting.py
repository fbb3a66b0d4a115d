"""Runs what a CUDA device would run, on tensors without numbers, and raises where the host would have to wait for one.

Fake tensors say that they are on a GPU, so code takes the branches that it takes there; reading a number raises, and
so does an operation whose result has as many rows as the data says. `Strict` adds operations that wait inside.
"""

import importlib
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.library import CustomOpDef
from torch.utils._python_dispatch import TorchDispatchMode

import seqmix.kernels
import seqmix.kernels.fixed_point
from seqmix.kernels import _triton
from seqmix.kernels._operator import Operator

# They ask the GPU whether they succeeded, work on the host, or pick a library by size that a graph need not hold.
WAITS = ("linalg_eig", "linalg_eigvals", "_linalg_eigh", "_linalg_svd", "linalg_inv_ex", "_linalg_solve_ex",
         "linalg_lu", "linalg_cholesky_ex", "is_nonzero", "equal", "nonzero", "unique")  # fmt: skip


class Strict(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        on_gpu = any(isinstance(a, torch.Tensor) and a.device.type == "cuda" for a in args)
        assert not (on_gpu and name.startswith(WAITS)), f"{name} waits for the GPU"
        result = func(*args, **(kwargs or {}))
        if on_gpu and isinstance(result, torch.Tensor) and name in ("_to_copy", "copy_"):
            assert result.device.type == "cuda", "a copy to the host waits for the GPU"
        return result


def view(x: torch.Tensor, key: Any) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """x at the slices and numbers of `key`, and for each axis of the result the tensor that indexes it."""
    key = key if isinstance(key, tuple) else (key,)
    if Ellipsis in [k for k in key if not isinstance(k, torch.Tensor)]:
        at = next(i for i, k in enumerate(key) if k is Ellipsis)
        taken = sum(k is not None and k is not Ellipsis for k in key)
        key = (*key[:at], *[slice(None)] * (x.ndim - taken), *key[at + 1 :])
    axis, indices = 0, list[torch.Tensor | None]()
    for k in key:
        if k is None:
            x, axis = torch.ops.aten.unsqueeze(x, axis), axis + 1
        elif isinstance(k, int):
            x = torch.ops.aten.select(x, axis, k)
        elif isinstance(k, slice):
            stop = sys.maxsize if k.stop is None else k.stop
            x, axis = torch.ops.aten.slice(x, axis, k.start or 0, stop, k.step or 1), axis + 1
        else:
            indices += [None] * (axis - len(indices)) + [k]
            axis += 1
    return x, indices


def get(x: torch.Tensor, key: Any) -> torch.Tensor:
    x, indices = view(x, key)
    return torch.ops.aten.index(x, indices) if indices else x


def put(x: torch.Tensor, key: Any, value: Any) -> None:
    x, indices = view(x, key)
    value = value if isinstance(value, torch.Tensor) else torch.full((), value, dtype=x.dtype, device=x.device)
    if indices:
        torch.ops.aten.index_put_(x, indices, value)
    else:
        torch.ops.aten.copy_(x, value)


def contiguous(x: torch.Tensor) -> torch.Tensor:
    return x if x.is_contiguous() else torch.ops.aten.clone(x, memory_format=torch.contiguous_format)


def opened(op: CustomOpDef) -> Callable[..., Any]:
    """The code of a custom op in place of the op, which would only say what shapes it returns; backward as well."""

    def call(*args: Any) -> Any:
        outputs = op._init_fn(*args)
        if op._backward_fn is not None and op._setup_context_fn is not None:
            context = SimpleNamespace(mark_non_differentiable=lambda *_: None)
            context.save_for_backward = lambda *tensors: setattr(context, "saved_tensors", tensors)
            op._setup_context_fn(context, args, outputs)
            op._backward_fn(context, *(torch.zeros_like(output) for output in outputs))
        return outputs

    return call


@contextmanager
def on_a_gpu(monkeypatch: pytest.MonkeyPatch, capturing: bool = True) -> Iterator[list[tuple[str, int]]]:
    """Inside, `torch.device("cuda")` makes fake tensors, ops are opened and launches are listed, not made."""
    launches: list[tuple[str, int]] = []

    def listed(kernel: Any, programs: int, *arguments: Any, **options: Any) -> None:
        assert isinstance(programs, int)
        devices = {a.device.type for a in arguments if isinstance(a, torch.Tensor)}
        assert devices == {"cuda"}, f"{kernel.fn.__name__} was given tensors on {devices}"
        assert all(a.is_contiguous() for a in arguments if isinstance(a, torch.Tensor)), (
            f"{kernel.fn.__name__}: strided"
        )
        launches.append((kernel.fn.__name__, programs))

    # Whatever is imported inside would keep what is put in the place of `launch`.
    for package in (seqmix.kernels, seqmix.kernels.fixed_point):
        for file in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if "triton" in file.name.rpartition(".")[2]:
                importlib.import_module(file.name)
    launch = _triton.launch
    for name, module in list(sys.modules.items()):
        if name.startswith("seqmix."):
            for attribute, value in list(vars(module).items()):
                if value is launch:
                    monkeypatch.setattr(module, attribute, listed)
                elif isinstance(value, Operator):
                    for op in filter(None, (value, value.backward)):
                        if isinstance(op.op, CustomOpDef):
                            # A backward op has an autograd formula too, which refuses.
                            plain = op.op._init_fn if op.op._name.endswith("_backward") else opened(op.op)
                            monkeypatch.setattr(op, "op", plain)
    # These ask a CUDA that a build for CPUs does not have; the operations behind them do not.
    monkeypatch.setattr(FakeTensor, "contiguous", contiguous, raising=False)
    monkeypatch.setattr(FakeTensor, "__invert__", lambda x: torch.ops.aten.bitwise_not(x), raising=False)
    monkeypatch.setattr(FakeTensor, "__getitem__", get, raising=False)
    monkeypatch.setattr(FakeTensor, "__setitem__", put, raising=False)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: capturing)
    with FakeTensorMode(), torch.device("cuda"), Strict():
        yield launches
