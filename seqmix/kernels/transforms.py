"""Forward-mode AD and `torch.func`, which kernels cannot follow: seen, and refused by name."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

HOW = "backend='reference', for layers seqmix.kernels.backend('reference') around the call"


def refuse_transforms(owner: str, *tensors: Any) -> None:
    """Raise where a transform that only plain torch can follow runs through any of `tensors`: of `torch.func` any."""
    refuse_tangents(owner, *tensors)
    if any(is_transformed(tensor) for tensor in tensors):
        raise NotImplementedError(f"{owner}: torch.func (grad, jacrev, vmap, ...) needs {HOW}")


def refuse_tangents(owner: str, *tensors: Any) -> None:
    """Raise where forward-mode AD runs through any of `tensors`: a custom op would drop tangents without a word."""
    # The level is -1 outside forward-mode AD, so ordinary calls pay one comparison.
    if forward_ad._current_level < 0:
        return
    # Neither torch.compile nor a transform inside lets tangents be seen: it has to be assumed that there are some.
    if torch.compiler.is_compiling() or any(
        is_transformed(tensor) or (isinstance(tensor, Tensor) and forward_ad.unpack_dual(tensor).tangent is not None)
        for tensor in tensors
    ):
        raise NotImplementedError(f"{owner}: forward-mode AD needs {HOW}")


def is_transformed(value: Any) -> bool:
    """Whether `value` is a tensor inside `torch.func.grad`, `vmap` and the like, which ends with that call."""
    if torch.compiler.is_compiling() or not isinstance(value, Tensor):
        return False
    return torch._C._functorch.is_functorch_wrapped_tensor(value)
