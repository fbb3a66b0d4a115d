"""Optimizers by name: what `optimizer: {name: adamw, lr: 2e-3}` in a config looks up."""

import fnmatch
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from seqmix._extras import require
from seqmix._suggest import unknown_name
from seqmix.optim.combined import Combined
from seqmix.optim.guards import keep_plain, leave_alone
from seqmix.optim.parameter_groups import parameter_groups

__all__ = [
    "OptimizerEntry",
    "check_optimizer",
    "create_optimizer",
    "get_optimizer",
    "list_optimizers",
    "register_optimizer",
]

_SPLIT = ("matrices", "rest", "fused", "adamw")
_BASE = ("base", "lr", "weight_decay")


@dataclass(frozen=True)
class OptimizerEntry:
    """One registered optimizer.

    `constructor` takes parameter groups, then keywords; a text `module:attribute` is imported on first use. `takes` is
    `"any"` parameters, `"matrices"` (AdamW gets the rest), `"list"` (no groups), `"model"`, or `"optimizer"` for
    wrappers. `needs` says what a step wants beside gradients, `library` who ships it: `"seqmix"`, `"torch"`,
    `"pytorch-optimizer"` or `"none"`, whose `constructor` is the reason why it cannot be made. `defaults` are arguments
    that differ from the constructor's, `divides_by_rate` holds for those that cannot step at rate 0.
    """

    name: str
    constructor: Callable[..., Optimizer] | str
    description: str
    source: str = ""
    library: str = "seqmix"
    takes: str = "any"
    needs: str = ""
    group: dict[str, Any] = field(default_factory=dict)
    defaults: dict[str, Any] = field(default_factory=dict)
    divides_by_rate: bool = False

    @property
    def line(self) -> str:
        """Description, library and needs in one line."""
        notes = [{"none": "in no library used here"}.get(self.library, self.library)]
        notes += [{"matrices": "matrices, AdamW the rest", "optimizer": "around a base"}.get(self.takes, "")]
        notes += [f"needs {self.needs}" if self.needs else "", self.deviations]
        return f"{self.description} [{'; '.join(note for note in notes if note)}]"

    @property
    def deviations(self) -> str:
        """The arguments that differ from the constructor's unless given."""
        return ", ".join(f"{key}={value} unless given" for key, value in self.defaults.items())

    def load(self) -> Callable[..., Optimizer]:
        """The constructor, imported now; `NotImplementedError` with the reason where there is none."""
        if not isinstance(self.constructor, str):
            return self.constructor
        if self.library == "none":
            raise NotImplementedError(f"optimizer {self.name!r}: {self.constructor}")
        module, _, attribute = self.constructor.partition(":")
        return getattr(require(module, extra="train", owner=f"optimizer {self.name!r}"), attribute)

    def arguments(self) -> dict[str, inspect.Parameter]:
        """Arguments by name, without the parameters and `**kwargs`."""
        found = list(inspect.signature(self.load()).parameters.values())[1:]
        return {p.name: p for p in found if p.kind is not p.VAR_KEYWORD}


_ENTRIES: dict[str, OptimizerEntry] = {}


def register_optimizer(
    name: str, constructor: Callable[..., Optimizer] | str, *, description: str, source: str = "", **fields: Any
) -> OptimizerEntry:
    """Make an optimizer known by `name`; `fields` are those of `OptimizerEntry`. A taken name is a `ValueError`."""
    if name in _ENTRIES:
        raise ValueError(f"register_optimizer: the name {name!r} is taken by {_ENTRIES[name].constructor}")
    _ENTRIES[name] = OptimizerEntry(name, constructor, description, source, **fields)
    return _ENTRIES[name]


def get_optimizer(name: str) -> OptimizerEntry:
    """The entry of one optimizer; an unknown name raises `ValueError` with the nearest ones."""
    if name not in _ENTRIES:
        raise unknown_name("optimizer", name, _ENTRIES)
    return _ENTRIES[name]


def list_optimizers(filter: str = "*", *, library: str | None = None) -> list[str]:
    """Names of the registered optimizers that match a shell pattern, sorted; of one `library` if it is given.

    `library="none"` lists what is in no library that seqmix uses. `get_optimizer(name).line` describes each.
    """
    known = ("seqmix", "torch", "pytorch-optimizer", "none")
    if library is not None and library not in known:
        raise unknown_name("library", library, known)
    return sorted(n for n in fnmatch.filter(_ENTRIES, filter) if library in (None, _ENTRIES[n].library))


def check_optimizer(name: str, **kwargs: Any) -> None:
    """Raise the `ValueError` that `create_optimizer` would raise for an unknown name or argument."""
    entry = get_optimizer(name)
    arguments = entry.arguments()
    own = {"matrices": _SPLIT, "optimizer": _BASE}.get(entry.takes, ())
    own = tuple(key for key in own if key != "fused" or "row_blocks" in arguments)
    for key in kwargs:
        if key not in arguments and key not in own:
            raise unknown_name(f"argument of optimizer {name!r}:", key, {*arguments, *own})
    for key, p in arguments.items():
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and key not in kwargs:
            raise ValueError(f"optimizer {name!r} needs the argument {key}")
    for key in ("lr", "weight_decay"):
        value = kwargs.get(key, 0)
        if isinstance(value, bool) or not isinstance(value, int | float | torch.Tensor):
            raise ValueError(f"optimizer {name!r}: {key} must be a number, got {value!r}")
    if entry.takes == "optimizer":
        base = _base(kwargs)
        inner = get_optimizer(base["name"])
        if inner.takes == "optimizer":
            raise ValueError(f"optimizer {name!r}: base must be no wrapper itself, got {base['name']!r}")
        if "train()" in inner.needs:
            raise ValueError(f"optimizer {name!r}: base must not be schedule-free, got {base['name']!r}")
        if entry.needs and ("loss" in inner.needs or "closure" in inner.needs):
            # these call the step of their base without arguments
            raise ValueError(f"optimizer {name!r}: base must step without the loss, got {base['name']!r}")
        check_optimizer(**base)
    if entry.takes == "matrices" and not isinstance(kwargs.get("adamw", {}), dict):
        raise ValueError(f"optimizer {name!r}: adamw must be a dict of AdamW's arguments, got {kwargs['adamw']!r}")
    if entry.takes == "matrices":
        check_optimizer("adamw", **kwargs.get("adamw", {}))


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
        base = _base(kwargs)
        own = {key: value for key, value in kwargs.items() if key not in _BASE}
        return entry.load()(create_optimizer(model=model, **base), **_tuples(entry, own))
    if entry.takes == "model":
        if not isinstance(model, nn.Module):
            raise ValueError(f"optimizer {name!r} takes a model, got {type(model).__name__}")
        return _as_declared(entry.load()(model, **_tuples(entry, kwargs)), _groups(entry, model, kwargs))
    if entry.takes == "list":
        groups = [{"params": list(model.parameters())}] if isinstance(model, nn.Module) else model
        return entry.load()([p for group in groups for p in group["params"] if p.requires_grad], **kwargs)
    split = {key: kwargs.pop(key) for key in _SPLIT if key in kwargs and entry.takes == "matrices"}
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


def _base(kwargs: dict[str, Any]) -> dict[str, Any]:
    base = kwargs.get("base", "adamw")
    base = {"name": base} if isinstance(base, str) else base
    if not isinstance(base, dict) or "name" not in base:
        raise ValueError(f"base must be the name of an optimizer or a dict with `name`, got {base!r}")
    return {**{key: kwargs[key] for key in ("lr", "weight_decay") if key in kwargs}, **base}


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
    groups = parameter_groups(model, **numbers, **({} if split is None else {"split": True, **split}))
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
