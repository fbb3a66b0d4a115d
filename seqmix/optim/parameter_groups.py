"""Which parameters decay and how fast each learns, read from what the modules declare."""

from collections.abc import Iterator
from typing import Any

from torch import nn

__all__ = ["parameter_groups"]

_NORMS = (nn.LayerNorm, nn.RMSNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)


def parameter_groups(model: nn.Module, *, lr: float, weight_decay: float) -> list[dict[str, Any]]:
    """Parameter groups for any torch optimizer, one for each combination of decay and learning-rate factor.

    A module declares by name what its own parameters need: `_no_weight_decay`, a tuple of names, and `_lr_scale`, a
    dict from names to factors on `lr`. Beyond that norms, embeddings, biases and everything with fewer than two
    axes do not decay. Parameters with `requires_grad=False` are left out.

    Args:
        model: any module; the declarations of all its submodules are read.
        lr: learning rate of parameters without a factor.
        weight_decay: decay of the parameters that decay.

    Returns:
        Dicts with `name`, `params`, `lr` and `weight_decay`; together they hold every trainable parameter once.

    Raises:
        ValueError: a negative `lr` or `weight_decay`, a model without trainable parameters, a declaration that names
            no parameter of its module, a factor that is not positive, or two factors for one shared parameter.

    Example:
        >>> import torch
        >>> from seqmix.optim import parameter_groups
        >>> groups = parameter_groups(torch.nn.Linear(4, 4), lr=1e-3, weight_decay=0.1)
        >>> [(group["name"], group["weight_decay"]) for group in groups]
        [('decay', 0.1), ('no decay', 0.0)]
    """
    for name, value in (("lr", lr), ("weight_decay", weight_decay)):
        if not value >= 0:
            raise ValueError(f"parameter_groups: {name} must be at least 0, got {value!r}")
    trainable = {id(p): p for p in model.parameters() if p.requires_grad}
    if not trainable:
        raise ValueError(f"parameter_groups: model must have trainable parameters, {type(model).__name__} has none")
    fixed: set[int] = set()
    factors: dict[int, float] = {}
    for owner, module in model.named_modules():
        own = module._parameters
        for name in _declared(module, owner, "_no_weight_decay"):
            fixed.add(id(own[name]))
        fixed.update(id(p) for name, p in own.items() if p is not None and _never_decays(module, name, p))
        scales = getattr(module, "_lr_scale", {})
        for name in _declared(module, owner, "_lr_scale"):
            factor = scales[name]
            if not factor > 0:
                raise ValueError(f"parameter_groups: _lr_scale of {owner}.{name} must be positive, got {factor!r}")
            if factors.setdefault(id(own[name]), factor) != factor:
                raise ValueError(
                    f"parameter_groups: {owner}.{name} is shared and has two _lr_scale factors, "
                    f"{factors[id(own[name])]} and {factor}"
                )
    groups: dict[tuple[bool, float], dict[str, Any]] = {}
    for key, parameter in trainable.items():
        decays, factor = key not in fixed, factors.get(key, 1.0)
        group = groups.setdefault(
            (decays, factor),
            {
                "name": ("decay" if decays else "no decay") + (f", lr x {factor:g}" if factor != 1 else ""),
                "params": [],
                "lr": lr * factor,
                "weight_decay": weight_decay if decays else 0.0,
            },
        )
        group["params"].append(parameter)
    result = list(groups.values())
    _check_partition(result, set(trainable))
    return result


def _declared(module: nn.Module, owner: str, attribute: str) -> Iterator[str]:
    # A parameter may be absent (None) by configuration; a name that was never registered is a mistake.
    for name in getattr(module, attribute, ()):
        if name not in module._parameters:
            raise ValueError(
                f"parameter_groups: {attribute} of {owner or 'the model'} ({type(module).__name__}) names {name!r}, "
                f"which is none of its own parameters ({', '.join(module._parameters) or 'it has none'})"
            )
        if module._parameters[name] is not None:
            yield name


def _never_decays(module: nn.Module, name: str, parameter: nn.Parameter) -> bool:
    bias = name == "bias" or name.startswith("bias_") or name.endswith("_bias")
    return parameter.ndim < 2 or bias or isinstance(module, (*_NORMS, nn.Embedding, nn.EmbeddingBag))


def _check_partition(groups: list[dict[str, Any]], trainable: set[int]) -> None:
    members = [id(p) for group in groups for p in group["params"]]
    if len(members) != len(set(members)) or set(members) != trainable:
        raise RuntimeError("parameter_groups: the groups are no partition of the trainable parameters")
