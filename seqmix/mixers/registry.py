"""Mixers by name: what `mixer: {name: bd-lru, block_size: 5}` in a config looks up."""

import functools
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from seqmix._registry import Entry, Registry
from seqmix._suggest import unknown_name

if TYPE_CHECKING:
    from seqmix.mixers.base import TokenMixer

__all__ = ["create_mixer", "get_mixer", "list_mixers", "register_mixer"]

T = TypeVar("T", bound=Callable[..., Any])
_MIXERS = Registry("mixer", "seqmix.mixers", Entry)


def register_mixer(name: str, *, description: str, source: str = "") -> Callable[[T], T]:
    """Decorator that makes a mixer known by `name`; its constructor takes `d_model` first, then keywords.

    Raises `ValueError` if the name is taken.

    Example:
        >>> @register_mixer("my-mixer", description="Does nothing yet.")  # doctest: +SKIP
        ... class MyMixer(TokenMixer): ...
    """
    return _MIXERS.decorator(name, description, source)


def get_mixer(name: str) -> Entry:
    """The entry of one mixer, by its registered name or, registered or not, as `"module:Class"`.

    A class or function there that builds no `TokenMixer` but another `nn.Module` becomes a `ModuleMixer`.

    Raises:
        ValueError: an unknown name, with the nearest ones, or a module or class that is not there.
    """
    return _imported(name) if isinstance(name, str) and ":" in name else _MIXERS[name]


def _imported(name: str) -> Entry:
    from torch import nn

    from seqmix.mixers.base import TokenMixer
    from seqmix.mixers.module_mixer import ModuleMixer

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
    return Entry(name, constructor, about, path)


def list_mixers(filter: str = "*") -> list[str]:
    """Names of the registered mixers that match a shell pattern, sorted."""
    return _MIXERS.matching(filter)


def create_mixer(name: str, d_model: int, **kwargs: Any) -> "TokenMixer":
    """Build a mixer by name.

    Args:
        name: a name from `list_mixers()`, or `"module:Class"` for one that is not registered.
        d_model: width of its input and output.
        kwargs: arguments of that mixer's constructor, `device` and `dtype` included.

    Raises:
        ValueError: an unknown name or argument, with the nearest ones, or a value of a wrong type.

    Example:
        >>> from seqmix import create_mixer
        >>> create_mixer("bd-lru", 64, block_size=4).state_size()
        64
    """
    return get_mixer(name).build("mixer", d_model, **kwargs)
