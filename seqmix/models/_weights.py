"""How large a model would be, before any of it is made."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from seqmix._memory import fits

__all__ = ["ShapesAlone", "check_weights", "numbers_of"]


class ShapesAlone(TorchFunctionMode):
    """Weights that are made inside on the device `meta` are not drawn: that takes most of the time, for nothing."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        drawn = args[0] if args else kwargs.get("tensor")
        if (func in _DRAWS or getattr(func, "__module__", None) == nn.init.__name__) and drawn.is_meta:
            return drawn
        return func(*args, **kwargs)


_FEW = 1 << 20  # weights that take no memory to speak of
_DRAWS = {torch.Tensor.normal_, torch.Tensor.uniform_}


def check_weights(model: Callable[..., nn.Module], held: int | None = None, **arguments: Any) -> None:
    """`ValueError` for the arguments of a model whose weights do not fit into memory.

    Args:
        model: its class.
        held: how many numbers the file holds that the weights are to be read from; the model may have so many.
    """
    try:
        with torch.random.fork_rng(devices=[]), ShapesAlone():
            parameters = list(model(**{**arguments, "device": "meta"}).parameters())
    except (ValueError, ImportError):
        raise
    except Exception as error:
        # Layers of one's own may not know a device without memory: they are not counted.
        if not isinstance(error, OverflowError) and "overflow" not in str(error).lower():
            return
        numbers, size = math.inf, math.inf
    else:
        numbers = sum(p.numel() for p in parameters)
        size = sum(p.numel() * p.element_size() for p in parameters)
    if held is not None and numbers > max(held, _FEW):
        raise ValueError(f"SequenceModel: expected at most the {held:,} numbers that the file holds, got {numbers:,}")
    fits("SequenceModel", f"a model of {numbers:,} weights", size)


def numbers_of(tensors: dict[str, Any]) -> int:
    """How many numbers a file holds for these tensors: a view may repeat what is there once."""
    found = 0
    for tensor in tensors.values():
        if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided and tensor.device.type != "meta":
            found += min(tensor.numel(), tensor.untyped_storage().nbytes() // tensor.element_size())
    return found
