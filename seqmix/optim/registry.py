"""Optimizers by name: what `optimizer: {name: adamw, lr: 2e-3}` in a config looks up."""

import fnmatch
import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from seqmix._checks import is_number
from seqmix._extras import require
from seqmix._suggest import unknown_name

if TYPE_CHECKING:
    from torch.optim import Optimizer

__all__ = [
    "OptimizerEntry",
    "check_optimizer",
    "check_shards",
    "get_optimizer",
    "list_optimizers",
    "register_optimizer",
]

SPLIT = ("matrices", "rest", "fused", "adamw")
BASE = ("base", "lr", "weight_decay")
# Of other libraries: by factors, bases or projections of a matrix.
WHOLE = ("alice", "apollo", "conda", "dash", "fira", "galore", "kron", "scalableshampoo", "shampoo", "soap", "splus")


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
    constructor: "Callable[..., Optimizer] | str"
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

    def load(self) -> "Callable[..., Optimizer]":
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
_LARGEST = sys.float_info.max


def register_optimizer(
    name: str, constructor: "Callable[..., Optimizer] | str", *, description: str, source: str = "", **fields: Any
) -> OptimizerEntry:
    """Make an optimizer known by `name`; `fields` are those of `OptimizerEntry`. A taken name is a `ValueError`."""
    if name in _ENTRIES:
        raise ValueError(f"register_optimizer: the name {name!r} is taken by {_ENTRIES[name].constructor}")
    _ENTRIES[name] = OptimizerEntry(name, constructor, description, source, **fields)
    return _ENTRIES[name]


def get_optimizer(name: str) -> OptimizerEntry:
    """The entry of one optimizer; an unknown name raises `ValueError` with the nearest ones."""
    if not isinstance(name, str) or name not in _ENTRIES:
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


def check_shards(name: str, **kwargs: Any) -> None:
    """`ValueError` for an optimizer of another library that takes matrices apart, which sharded ones are not whole for.

    Such steps fail, or drift from those of one process. Ours gather what they need; elementwise ones need nothing.
    """
    entry = get_optimizer(name)
    if entry.takes == "optimizer":
        check_shards(**base_of(kwargs))
    if entry.library != "seqmix" and (entry.takes == "matrices" or name in WHOLE):
        raise ValueError(
            f"optimizer {name!r}: takes whole matrices apart, which sharded parameters are not; expected one that is "
            "made for them, such as muown or lmo, an elementwise one such as adamw, or trainer.strategy ddp"
        )


def check_optimizer(name: str, **kwargs: Any) -> None:
    """Raise the `ValueError` that `create_optimizer` would raise for an unknown name or argument."""
    entry = get_optimizer(name)
    arguments = entry.arguments()
    own = {"matrices": SPLIT, "optimizer": BASE}.get(entry.takes, ())
    own = tuple(key for key in own if key != "fused" or "row_blocks" in arguments)
    for key in kwargs:
        if key not in arguments and key not in own:
            raise unknown_name(f"argument of optimizer {name!r}:", key, {*arguments, *own})
    for key, p in arguments.items():
        if p.default is p.empty and p.kind is not p.VAR_POSITIONAL and key not in kwargs:
            raise ValueError(f"optimizer {name!r} needs the argument {key}")
    for key in ("lr", "weight_decay"):
        value = kwargs.get(key, 0)
        if not is_number(value) and not hasattr(value, "item"):
            raise ValueError(f"optimizer {name!r}: {key} must be a number, got {value!r}")
        if isinstance(value, int | float) and not abs(value) <= _LARGEST:
            raise ValueError(f"optimizer {name!r}: {key} must be a finite number, got {value!r}")
    if entry.takes == "optimizer":
        base = base_of(kwargs)
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


def base_of(kwargs: dict[str, Any]) -> dict[str, Any]:
    base = kwargs.get("base", "adamw")
    base = {"name": base} if isinstance(base, str) else base
    if not isinstance(base, dict) or "name" not in base:
        raise ValueError(f"base must be the name of an optimizer or a dict with `name`, got {base!r}")
    return {**{key: kwargs[key] for key in ("lr", "weight_decay") if key in kwargs}, **base}
