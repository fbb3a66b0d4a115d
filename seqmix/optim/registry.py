"""Optimizers by name: what `optimizer: {name: adamw, lr: 2e-3}` in a config looks up."""

import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from seqmix._suggest import unknown_name
from seqmix.optim.parameter_groups import parameter_groups

__all__ = ["OptimizerEntry", "create_optimizer", "list_optimizers", "register_optimizer"]


@dataclass(frozen=True)
class OptimizerEntry:
    """One registered optimizer; `constructor` takes parameter groups, then keywords."""

    name: str
    constructor: Callable[..., torch.optim.Optimizer]
    description: str
    source: str


_ENTRIES: dict[str, OptimizerEntry] = {}


def register_optimizer(
    name: str, constructor: Callable[..., torch.optim.Optimizer], *, description: str, source: str = ""
) -> OptimizerEntry:
    """Make an optimizer known by `name`; a taken name is a `ValueError`."""
    if name in _ENTRIES:
        raise ValueError(f"register_optimizer: the name {name!r} is taken by {_ENTRIES[name].constructor}")
    _ENTRIES[name] = OptimizerEntry(name, constructor, description, source)
    return _ENTRIES[name]


def get_optimizer(name: str) -> OptimizerEntry:
    """The entry of one optimizer; an unknown name raises `ValueError` with the nearest ones."""
    if name not in _ENTRIES:
        raise unknown_name("optimizer", name, _ENTRIES)
    return _ENTRIES[name]


def list_optimizers(filter: str = "*") -> list[str]:
    """Names of the registered optimizers that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_ENTRIES, filter))


def check_optimizer(name: str, **kwargs: Any) -> None:
    """Raise the `ValueError` that `create_optimizer` would raise for an unknown name or argument."""
    known = inspect.signature(get_optimizer(name).constructor).parameters
    for key in kwargs:
        if key not in known:
            raise unknown_name(f"argument of optimizer {name!r}:", key, set(known) - {"params"})
    for key in ("lr", "weight_decay"):
        if key in kwargs and (isinstance(kwargs[key], bool) or not isinstance(kwargs[key], int | float)):
            raise ValueError(f"optimizer {name!r}: {key} must be a number, got {kwargs[key]!r}")


def create_optimizer(name: str, model: nn.Module | list[dict[str, Any]], **kwargs: Any) -> torch.optim.Optimizer:
    """Build an optimizer by name.

    Args:
        name: a name from `list_optimizers()`.
        model: a module, whose parameters are grouped by what they declare (`parameter_groups`), or groups.
        kwargs: arguments of the optimizer, `lr` and `weight_decay` among them.

    Raises:
        ValueError: an unknown name or argument, with the nearest ones.

    Example:
        >>> import torch
        >>> from seqmix.optim import create_optimizer
        >>> len(create_optimizer("adamw", torch.nn.Linear(4, 4), lr=1e-3, weight_decay=0.1).param_groups)
        2
    """
    check_optimizer(name, **kwargs)
    constructor = get_optimizer(name).constructor
    if not isinstance(model, nn.Module):
        return constructor(model, **kwargs)
    defaults = {key: p.default for key, p in inspect.signature(constructor).parameters.items()}
    lr, decay = (kwargs.get(key, defaults[key]) for key in ("lr", "weight_decay"))
    return constructor(parameter_groups(model, lr=lr, weight_decay=decay), **kwargs)


def _adamw(
    params: list[dict[str, Any]],
    lr: float = 1e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    amsgrad: bool = False,
    fused: bool | None = None,
) -> torch.optim.Optimizer:
    # YAML has no tuples, and reads 1e-3 as a string
    betas = (float(betas[0]), float(betas[1]))
    if fused is None:
        tensors = [p for group in params for p in group["params"]]
        fused = all(type(p) in (nn.Parameter, torch.Tensor) and p.is_floating_point() for p in tensors)
    return torch.optim.AdamW(
        params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, fused=fused
    )


register_optimizer("adamw", _adamw, description="Adam with decoupled weight decay, fused.", source="1711.05101")
