"""A model does what its classes say and nothing else, which certificates take for granted.

Every module must be of exactly the class that builds it and hold exactly the attributes that its class gives it, with
the same values: a hook, a method or a norm that was put in its place, a parametrization or an option that was set later
is another attribute, value or class. Nothing here knows which of them would matter. A class has the methods that its
own file gives it: what was put in the place of one, for all modules at once, is code of another file or another name.
"""

import itertools
import os
import sys
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from types import FunctionType
from typing import Any, NoReturn

import torch
from torch.nn.modules import module as torch_module

from seqmix._trust import OWN, beneath
from seqmix.mixers.h_lru import HLRU
from seqmix.models import SequenceModel
from seqmix.models._weights import ShapesAlone

__all__ = ["check_as_built", "rebuilt"]

# Models are run in eval mode; the second one only says of which kind hooks are that are not there.
_FREE = frozenset({"training", "_is_full_backward_hook"})
_GLOBAL_HOOKS = (
    "_global_forward_pre_hooks",
    "_global_forward_hooks",
    "_global_backward_pre_hooks",
    "_global_backward_hooks",
)

# transformers puts it on torch's Module when it makes a model; nothing of torch or seqmix calls it.
_ADDED = ("smart_apply",)

_ROOTS = {name: f"{Path(sys.modules[name].__file__ or '').parent}{os.sep}" for name in (OWN, "torch")}


def rebuilt(model: SequenceModel, **like: Any) -> SequenceModel:
    """A new model of the same shape, of the library's own layers whatever made those of `model`."""
    with torch.random.fork_rng(devices=[]), ShapesAlone():
        return SequenceModel(**model.config | {"mixer": [_spec(mixer) for mixer in model.mixers]}, **like)


def check_as_built(model: SequenceModel) -> None:
    """Raise `NotImplementedError` that names what is not as `SequenceModel` makes it."""
    for name in _GLOBAL_HOOKS:
        if getattr(torch_module, name):
            raise NotImplementedError(f"certify: hooks on all modules are not treated, torch.nn has {name}")
    for kind in {parent: None for part in model.modules() for parent in type(part).__mro__}:
        _check_methods(kind)
    try:
        expected = rebuilt(model, device="meta")
    except (AttributeError, TypeError, ValueError) as error:
        raise NotImplementedError(f"certify: the model's own sizes do not build one: {error}") from None
    _compare("", model, expected)


def _check_methods(kind: type) -> None:
    """`NotImplementedError` for a method that the file of its class does not have, of classes of seqmix and torch."""
    own = beneath(kind.__module__, OWN)
    if not own and not beneath(kind.__module__, "torch"):
        return
    for name, value in vars(kind).items():
        if name in _ADDED and not own:
            continue
        for function in _functions(value):
            # A decorator of either library stands around what it decorates.
            while hasattr(function, "__wrapped__") and _library(function) in (OWN, "torch"):
                function = function.__wrapped__
            code = function.__code__
            if own and _library(function) == OWN:
                right = code.co_qualname in (name, f"{kind.__qualname__}.{name}")
            else:
                # torch.compile wraps these two of Module to count modules.
                counted = name in ("__init__", "__setstate__") and _library(function) == "torch"
                right = counted or code.co_filename == sys.modules[kind.__module__].__file__
            if not right:
                _refuse(f"{kind.__name__}.{name}", f"{code.co_qualname} of {code.co_filename}")


def _functions(value: Any) -> Iterator[FunctionType]:
    """Those that an attribute of a class calls."""
    if isinstance(value, staticmethod | classmethod):
        value = value.__func__
    found = [value.fget, value.fset, value.fdel] if isinstance(value, property) else [value]
    found = [value.func] if isinstance(value, cached_property) else found
    yield from (function for function in found if isinstance(function, FunctionType))


def _library(function: FunctionType) -> str | None:
    """`seqmix` or `torch`, whichever a function's code lies in."""
    path = function.__code__.co_filename
    return next((name for name, root in _ROOTS.items() if path.startswith(root)), None)


def _spec(mixer: Any) -> dict[str, Any]:
    gates = {"normalization": mixer.normalization, "selective": mixer.selective}
    if type(mixer) is HLRU:
        return {"name": "h-lru", "d_state": mixer.d_state, "order": mixer.order, **gates}
    return {"name": "bd-lru", "d_state": mixer.d_state, "block_size": mixer.block_size, **gates}


def _compare(name: str, part: Any, expected: Any) -> None:
    if type(part) is not type(expected):
        _refuse(name, type(part).__name__)
    if part is None:
        return
    prefix, own, wanted = f"{name}." if name else "", vars(part), vars(expected)
    for key in sorted(own.keys() ^ wanted.keys()):
        _refuse(prefix + key, "one" if key in own else "none")
    for key in own.keys() - _FREE - {"_parameters", "_modules"}:
        value = own[key]
        if key == "config" and not name:
            continue  # what the model was asked for; what it is stands in its parts
        if type(value) is not type(wanted[key]) or value != wanted[key]:
            _refuse(prefix + key, repr(value))
    for key, weight, like in _pairs(prefix, own["_parameters"], wanted["_parameters"]):
        if type(weight) is not type(like) or (
            weight is not None and (weight.shape != like.shape or weight.layout != torch.strided)
        ):
            _refuse(key, f"{type(weight).__name__} of shape {tuple(getattr(weight, 'shape', ()))}")
    for key, module, like in _pairs(prefix, own["_modules"], wanted["_modules"]):
        _compare(key, module, like)


def _pairs(prefix: str, own: dict[str, Any], wanted: dict[str, Any]) -> list[tuple[str, Any, Any]]:
    """The entries of both, which must have the same names in the same order."""
    for key, expected in itertools.zip_longest(own, wanted):
        if key != expected:
            _refuse(f"{prefix}{expected if key is None else key}", "none" if key is None else "one")
    return [(prefix + key, own[key], wanted[key]) for key in own]


def _refuse(name: str, got: str) -> NoReturn:
    short = got if len(got) <= 80 else f"{got[:77]}..."
    raise NotImplementedError(f"certify: {name or 'the model'} is not as SequenceModel makes it, got {short}")
