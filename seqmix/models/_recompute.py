"""Blocks that the backward pass computes a second time."""

from collections.abc import Callable
from typing import Any

import torch

from seqmix.kernels import backend
from seqmix.kernels._backend import preferred

__all__ = ["on_one_backend"]


def on_one_backend(block: Callable[..., Any]) -> Callable[..., Any]:
    """`block`, that takes the present choice of a backend along to where the backward pass computes it again."""
    if torch.compiler.is_compiling():
        return block
    chosen = preferred()

    def run(*arguments: Any) -> Any:
        with backend(chosen):
            return block(*arguments)

    return run
