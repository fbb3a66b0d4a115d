"""Modules that are in eval mode for a while."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from torch import nn

__all__ = ["evaluating"]


class _Module(Protocol):
    def eval(self) -> Any: ...
    def modules(self) -> Iterable[nn.Module]: ...


@contextmanager
def evaluating(module: _Module) -> Iterator[None]:
    """A module in eval mode, and afterwards each part as it was."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
