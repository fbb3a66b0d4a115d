"""Ops whose sequences are cut over ranks: who sees to it is asked before the kernels are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["handed_on", "handing"]

P = ParamSpec("P")
R = TypeVar("R")
Handler = Callable[[Callable[..., Any], tuple[Any, ...], dict[str, Any]], Any]

_handler: ContextVar[Handler | None] = ContextVar("handler", default=None)


@contextmanager
def handing(handler: Handler | None) -> Iterator[None]:
    """Inside, scans are `handler(op, args, kwargs)`; None is the plain op."""
    token = _handler.set(handler)
    try:
        yield
    finally:
        _handler.reset(token)


def handed_on(op: Callable[P, R]) -> Callable[P, R]:
    """Decorator of an op whose state may come from another rank."""

    @wraps(op)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.compiler.is_compiling() or (handler := _handler.get()) is None:
            return op(*args, **kwargs)
        return handler(op, args, kwargs)

    return call
