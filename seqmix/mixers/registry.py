"""Mixers by name: what `mixer: {name: bd-lru, block_size: 5}` in a config looks up."""

import fnmatch
import functools
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from seqmix._suggest import unknown_name
from seqmix.mixers.base import TokenMixer
from seqmix.mixers.module_mixer import ModuleMixer


@dataclass(frozen=True)
class MixerEntry:
    """One registered mixer: what builds it, in one line what it is, and where it comes from."""

    name: str
    constructor: Callable[..., TokenMixer]
    description: str
    source: str


_ENTRIES: dict[str, MixerEntry] = {}


def register_mixer(
    name: str, *, description: str, source: str = ""
) -> Callable[[Callable[..., TokenMixer]], Callable[..., TokenMixer]]:
    """Decorator that makes a mixer known by `name`; its constructor takes `d_model` first, then keywords.

    Raises `ValueError` if the name is taken.

    Example:
        >>> @register_mixer("my-mixer", description="Does nothing yet.")  # doctest: +SKIP
        ... class MyMixer(TokenMixer): ...
    """

    def register(constructor: Callable[..., TokenMixer]) -> Callable[..., TokenMixer]:
        if name in _ENTRIES:
            raise ValueError(f"register_mixer: the name {name!r} is taken by {_ENTRIES[name].constructor}")
        _ENTRIES[name] = MixerEntry(name, constructor, description, source)
        return constructor

    return register


def get_mixer(name: str) -> MixerEntry:
    """The entry of one mixer, by its registered name or, registered or not, as `"module:Class"`.

    A class or function there that builds no `TokenMixer` but another `nn.Module` becomes a `ModuleMixer`.

    Raises:
        ValueError: an unknown name, with the nearest ones, or a module or class that is not there.
    """
    if isinstance(name, str) and ":" in name:
        return _imported(name)
    if not isinstance(name, str) or name not in _ENTRIES:
        raise unknown_name("mixer", name, _ENTRIES)
    return _ENTRIES[name]


def _imported(name: str) -> MixerEntry:
    path, _, attribute = name.partition(":")
    try:
        module = importlib.import_module(path)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{path}.".startswith(f"{error.name}."):
            raise
        raise ValueError(f"mixer {name!r}: there is no module {error.name!r}") from None
    constructor = getattr(module, attribute, None)
    if not callable(constructor):
        known = [key for key, value in vars(module).items() if isinstance(value, type) and issubclass(value, nn.Module)]
        raise unknown_name(f"class of {path}", attribute, known)
    about = (constructor.__doc__ or "").strip().partition("\n")[0]
    if isinstance(constructor, type) and issubclass(constructor, nn.Module) and not issubclass(constructor, TokenMixer):
        constructor = functools.partial(ModuleMixer, module=constructor)
    return MixerEntry(name, constructor, about, path)


def list_mixers(filter: str = "*") -> list[str]:
    """Names of the registered mixers that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_ENTRIES, filter))


def create_mixer(name: str, d_model: int, **kwargs: Any) -> TokenMixer:
    """Build a mixer by name.

    Args:
        name: a name from `list_mixers()`, or `"module:Class"` for one that is not registered.
        d_model: width of its input and output.
        kwargs: arguments of that mixer's constructor, `device` and `dtype` included.

    Raises:
        ValueError: an unknown name or argument, with the nearest ones.

    Example:
        >>> from seqmix import create_mixer
        >>> create_mixer("bd-lru", 64, block_size=4).state_size()
        64
    """
    entry = get_mixer(name)
    parameters = inspect.signature(entry.constructor).parameters
    if not any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        for key in kwargs:
            if key not in parameters:
                raise unknown_name(f"argument of mixer {name!r}:", key, set(parameters) - {"d_model"})
    return entry.constructor(d_model, **kwargs)
