"""Optimizers of a model's parameters, by name."""

from typing import Any

from torch import nn
from torch.optim import Optimizer

from seqmix.optim.combined import Combined
from seqmix.optim.groups import parameter_groups
from seqmix.optim.guards import keep_plain, leave_alone
from seqmix.optim.registry import BASE, SPLIT, OptimizerEntry, base_of, check_optimizer, get_optimizer

__all__ = ["WIDTH", "create_optimizer"]

# Of those whose rates are known to go with the width of a model: the power of Adam's factor that matrices get. Steps
# that are scaled to the size of Adam's have a spectral norm that grows as the root of the width, those of Muon's own
# scale do not. What is linear in the gradient wants rates that rise with the width elsewhere, and has no rule here.
WIDTH = dict.fromkeys(("adamw", "adam", "adamax", "nadam", "radam", "tied-adam", "signum", "lion", "soap"), 1.0)
WIDTH |= dict.fromkeys(("muon", "muown", "angular-muown"), 0.5) | {"muon-original": 0.0}


def create_optimizer(name: str, model: nn.Module | list[dict[str, Any]], **kwargs: Any) -> Optimizer:
    """Build an optimizer by name.

    A module's parameters are grouped by what they declare (`parameter_groups`). An optimizer of matrices gets those
    that `describe_parameters` calls so, AdamW the rest with the same `lr` and `weight_decay`; `adamw={...}` gives it
    others, `matrices` and `rest` are regular expressions that overrule the rule, `fused={"qkv_proj": 3}` says which
    matrices (by regular expression) are several, one below the other. Wrappers take
    `base={name: ..., arguments}` (AdamW by default), with `lr` and `weight_decay` as arguments of the base.

    Whoever wrote it: parameters of a group whose rate is 0 stay where they are, momentum and noise included, and the
    `state_dict` is tensors and plain values, which `torch.load(weights_only=True)` reads.

    Args:
        name: a name from `list_optimizers()`.
        model: a module, or parameter groups; an optimizer of matrices takes every group whose `kind` is not `"rest"`.
            `lbfgs` takes all parameters as one list, with one `lr`.
        kwargs: arguments of the optimizer, `lr` and `weight_decay` among them.

    Raises:
        ValueError: an unknown name or argument, with the nearest ones, a missing one, or no matrices.
        NotImplementedError: an optimizer that no library used here has, or that groups alone cannot make.

    Example:
        >>> import torch
        >>> from seqmix.optim import create_optimizer
        >>> len(create_optimizer("adamw", torch.nn.Linear(4, 4), lr=1e-3, weight_decay=0.1).param_groups)
        2
    """
    check_optimizer(name, **kwargs)
    entry = get_optimizer(name)
    ruled = entry.takes == "optimizer" or name in WIDTH  # a wrapper asks its base
    if not ruled and isinstance(model, nn.Module) and any(hasattr(each, "_width_scale") for each in model.modules()):
        known = ", ".join(WIDTH)
        raise ValueError(f"optimizer {name!r}: has no rule for parametrization 'mup'; these have one: {known}")
    optimizer = _create(entry, model, kwargs)
    leave_alone(optimizer, divides_by_rate=entry.divides_by_rate)
    if entry.takes != "optimizer":  # the base of a wrapper has it
        keep_plain(optimizer)
    return optimizer


def _create(entry: OptimizerEntry, model: nn.Module | list[dict[str, Any]], kwargs: dict[str, Any]) -> Optimizer:
    name = entry.name
    if not isinstance(model, nn.Module) and not (
        isinstance(model, list | tuple) and all(isinstance(group, dict) for group in model)
    ):
        raise ValueError(
            f"optimizer {name!r}: model must be a module or a list of parameter groups, got {type(model).__name__}"
        )
    kwargs = {**entry.defaults, **kwargs}
    if entry.takes == "optimizer":
        base = base_of(kwargs)
        own = {key: value for key, value in kwargs.items() if key not in BASE}
        return entry.load()(create_optimizer(model=model, **base), **_tuples(entry, own))
    if entry.takes == "model":
        if not isinstance(model, nn.Module):
            raise ValueError(f"optimizer {name!r} takes a model, got {type(model).__name__}")
        return _as_declared(entry.load()(model, **_tuples(entry, kwargs)), _groups(entry, model, kwargs))
    if entry.takes == "list":
        groups = [{"params": list(model.parameters())}] if isinstance(model, nn.Module) else model
        return entry.load()([p for group in groups for p in group["params"] if p.requires_grad], **kwargs)
    split = {key: kwargs.pop(key) for key in SPLIT if key in kwargs and entry.takes == "matrices"}
    if entry.takes != "matrices":
        return _build(entry, _groups(entry, model, kwargs), kwargs)
    adamw = get_optimizer("adamw")
    shared = {key: kwargs.get(key, default) for key, default in _rates(entry).items() if default is not None}
    theirs = {**shared, **split.pop("adamw", {})}
    if isinstance(model, nn.Module):
        mine = [g for g in _groups(entry, model, kwargs, split) if g["kind"] == "matrix"]
        rest = [g for g in _groups(adamw, model, theirs, split) if g["kind"] == "rest"]
    else:
        if ignored := [key for key in ("matrices", "rest", "fused") if split.get(key) is not None]:
            raise ValueError(
                f"optimizer {name!r}: {', '.join(ignored)} need a module to look in, got groups, which say it by "
                "`kind` and `row_blocks`"
            )
        mine = [group for group in model if group.get("kind") != "rest"]
        rest = [group for group in model if group.get("kind") == "rest"]
    if not mine:
        raise ValueError(f"optimizer {name!r}: the model has no matrices, see: seqmix list parameters")
    matrix = _build(entry, mine, kwargs)
    return Combined({entry.name: matrix, "adamw": _build(adamw, rest, theirs)}) if rest else matrix


def _rates(entry: OptimizerEntry) -> dict[str, Any]:
    arguments = entry.arguments()
    return {key: arguments[key].default if key in arguments else None for key in ("lr", "weight_decay")}


def _groups(
    entry: OptimizerEntry, model: nn.Module | list[dict[str, Any]], kwargs: dict[str, Any], split: Any = None
) -> list[dict[str, Any]]:
    if not isinstance(model, nn.Module):
        return model
    rates = {key: kwargs.get(key, default) for key, default in _rates(entry).items()}
    numbers: dict[str, Any] = {
        "lr": 1.0 if rates["lr"] is None else rates["lr"],
        "weight_decay": rates["weight_decay"] or 0.0,
    }
    parted = {} if split is None else {"split": True, "matrix_width": WIDTH.get(entry.name, 1.0), **split}
    groups = parameter_groups(model, **numbers, **parted)
    for group in groups:
        if rates["lr"] is None and group["lr"] != 1:
            raise ValueError(f"optimizer {entry.name!r} has no lr, {group['name']} asks for a factor on it")
        for key, value in rates.items():
            if value is None:
                del group[key]
    return groups


def _build(entry: OptimizerEntry, groups: list[dict[str, Any]], kwargs: dict[str, Any]) -> Optimizer:
    for group in groups:
        group.update({key: value for key, value in entry.group.items() if key not in group})
    return entry.load()(groups, **_tuples(entry, kwargs))


def _as_declared(optimizer: Optimizer, groups: list[dict[str, Any]]) -> Optimizer:
    # It has made groups of one parameter by its own rule; rates and decay are the model's to declare.
    declared = {id(p): group for group in groups for p in group["params"]}
    for group in optimizer.param_groups:
        (p,) = group["params"]
        group.update({key: declared[id(p)][key] for key in ("lr", "weight_decay")})
    return optimizer


def _tuples(entry: OptimizerEntry, kwargs: dict[str, Any]) -> dict[str, Any]:
    # YAML has no tuples, and reads 1e-3 as a string
    arguments, result = entry.arguments(), {}
    for key, value in kwargs.items():
        if isinstance(arguments[key].default, tuple) and isinstance(value, list | tuple):
            value = tuple(float(item) if isinstance(item, str) else item for item in value)
        result[key] = value
    return result
