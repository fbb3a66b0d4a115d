"""`batch_invariant`: whole models whose bits do not depend on who else is in the batch, or on how a sequence comes."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from seqmix.kernels._row_blocks import row_product

__all__ = ["batch_invariant", "is_batch_invariant"]

_active: ContextVar[bool] = ContextVar("seqmix.kernels.batch_invariant", default=False)
# torch's loops over numbers end in a scalar tail, whose exp is another one: a multiple of this has none, on any number
# of threads that share it.
_LANES = 64
_GRAIN = 32_768


@contextmanager
def batch_invariant() -> Iterator[None]:
    """Inside, a sequence has the same bits whole, in chunks, token by token, packed, alone and in any batch, on a CPU.

    Linear maps (`nn.Linear`, `F.linear`, `x @ W` with a matrix W, and `torch.einsum` where the letters b and t of one
    operand are batch and time) take rows in blocks of fixed sizes, and functions of single numbers run without the
    scalar tail that torch's loops end in. Gradients are right, without this promise. Thread
    and task that enter it are those it holds for. The number of torch threads stays part of what has to be the same,
    as processor and versions do. What it costs, and what a layer under it may not do, is in `docs/kernels.md`.

    Raises:
        NotImplementedError: inside, for a mixer that cannot keep this, by name, some only where a state is handed in;
            for a linear map elsewhere than on a CPU, or in a compiled graph.

    Example:
        >>> import torch
        >>> from seqmix import BDLRU
        >>> from seqmix.kernels import batch_invariant
        >>> layer, x = BDLRU(d_model=64), torch.randn(5, 12, 64)
        >>> with torch.no_grad(), batch_invariant():
        ...     whole, _ = layer(x)
        ...     first, state = layer(x[:1, :11])
        ...     last, _ = layer.step(x[:1, 11], state)
        >>> torch.equal(first, whole[:1, :11]), torch.equal(last, whole[:1, 11])
        (True, True)
    """
    if _active.get():
        yield
        return
    token = _active.set(True)
    try:
        with _Mode():
            yield
    finally:
        _active.reset(token)


def is_batch_invariant() -> bool:
    """Whether the call stands in `batch_invariant`."""
    return not torch.compiler.is_compiling() and _active.get()


class _Mode(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _INSTEAD.get(func, func)(*args, **(kwargs or {}))


def _lowered(*tensors: Tensor) -> tuple[Tensor, ...]:
    """As autocast hands them to a product."""
    if not torch.is_autocast_enabled("cpu"):
        return tensors
    dtype = torch.get_autocast_dtype("cpu")
    return tuple(t.to(dtype) if t.dtype != torch.float64 else t for t in tensors)


def _linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    input, weight = _lowered(input, weight)
    y = row_product(input, weight.mT)
    return y if bias is None else y + bias.to(y.dtype)


def _matmul(input: Tensor, other: Tensor, **options: Any) -> Tensor:
    if other.ndim != 2 or input.ndim < 2 or options or input.is_complex():
        return torch.matmul(input, other, **options)
    return row_product(*_lowered(input, other))


def _einsum(equation: str, *operands: Any) -> Tensor:
    """Letters b and t are batch and time: where one operand has them, it is mapped by the other."""
    given = operands[0] if isinstance(operands[0], list | tuple) else operands
    inputs, _, output = equation.replace(" ", "").partition("->")
    names = inputs.split(",")
    if len(names) != 2 or ("b" in names[0]) == ("b" in names[1]) or "..." in equation:
        return torch.einsum(equation, *given)
    (of_x, x), (of_w, w) = sorted(zip(names, given, strict=True), key=lambda pair: "b" not in pair[0])
    sizes = dict(zip(of_x + of_w, (*x.shape, *w.shape), strict=True))
    shared = [c for c in of_x if c in of_w and c in output]
    rows, inner = [c for c in of_x if c not in of_w], [c for c in of_x if c in of_w and c not in output]
    columns = [c for c in of_w if c not in of_x]
    width = [math.prod(sizes[c] for c in letters) for letters in (shared, rows, inner, columns)]

    def arranged(names: str, tensor: Tensor, order: list[str], *shape: int) -> Tensor:
        return torch.einsum(f"{names}->{''.join(order)}", tensor).reshape(shape)

    x = arranged(of_x, x, shared + rows + inner, width[0], width[1], width[2])
    w = arranged(of_w, w, shared + inner + columns, width[0], width[2], width[3])
    y = torch.stack([row_product(*_lowered(a, b)) for a, b in zip(x, w, strict=True)])
    names_y = shared + rows + columns
    return torch.einsum(f"{''.join(names_y)}->{output}", y.view([sizes[c] for c in names_y]))


def _without_tail(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """`function` of single numbers, over a contiguous multiple of the lanes."""

    @wraps(function)
    def call(input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        count = input.numel()
        tasks = min(torch.get_num_threads(), -(-count // _GRAIN)) or 1
        missing = -count % (_LANES * tasks)
        if not missing and input.is_contiguous():
            return function(input, *args, **kwargs)
        flat = functional.pad(input.reshape(-1), (0, missing)).contiguous()
        return function(flat, *args, **kwargs)[:count].view(input.shape)

    return call


_INSTEAD: dict[Any, Callable[..., Any]] = {functional.linear: _linear, torch.einsum: _einsum}
_INSTEAD |= dict.fromkeys((torch.matmul, Tensor.matmul, torch.mm, Tensor.mm), _matmul)
_INSTEAD |= {
    each: _without_tail(each)
    for each in (
        functional.silu,
        functional.gelu,
        functional.softplus,
        functional.elu,
        functional.sigmoid,
        torch.sigmoid,
        Tensor.sigmoid,
        Tensor.__pow__,
        Tensor.pow,
        torch.pow,
    )
}
