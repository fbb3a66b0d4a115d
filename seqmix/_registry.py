"""Registers: entries by name, those that the modules of a package declare and those of others."""

import fnmatch
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from seqmix._annotations import is_plain, misfit
from seqmix._sources import declared
from seqmix._suggest import unknown_name

__all__ = ["Entry", "Registry"]

T = TypeVar("T", bound=Callable[..., Any])
E = TypeVar("E", bound="Entry")


@dataclass(frozen=True)
class Entry:
    """One registered thing: what builds it, in one line what it is, and where it comes from.

    `target` is a class or function, or `"module:attribute"`, which is imported when it is first built.
    """

    name: str
    target: Callable[..., Any] | str
    description: str
    source: str = ""

    @property
    def path(self) -> str:
        """What builds it, as `"module:attribute"`."""
        return self.target if isinstance(self.target, str) else f"{self.target.__module__}:{self.target.__qualname__}"

    @property
    def class_path(self) -> str:
        """The same as Lightning's configs write it: `module.Class`."""
        return self.path.replace(":", ".")

    def load(self) -> Callable[..., Any]:
        """What builds it, imported now."""
        if not isinstance(self.target, str):
            return self.target
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)

    def parameters(self) -> Mapping[str, inspect.Parameter]:
        """What its target takes, by name."""
        return inspect.signature(self.load()).parameters

    def build(self, kind: str, /, *first: Any, **named: Any) -> Any:
        """What its target makes of arguments; those that come `first` cannot be named. `kind` is for errors.

        Raises:
            ValueError: an unknown argument, with the nearest ones, or plain data that the annotation of a target of
                ours excludes; annotations of others do not always say what they take.
        """
        known = dict(list(self.parameters().items())[len(first) :])
        if not any(each.kind is each.VAR_KEYWORD for each in known.values()):
            for key in named:
                if key not in known:
                    raise unknown_name(f"argument of {kind} {self.name!r}:", key, known)
        module = self.target if isinstance(self.target, str) else getattr(self.target, "__module__", "")
        ours = module.startswith("seqmix.")
        for key in known.keys() & named.keys() if ours else ():
            value = named[key]
            expected = misfit(inspect.formatannotation(known[key].annotation), value) if is_plain(value) else None
            if expected is not None:
                raise ValueError(f"{kind} {self.name!r}: {key} must be {expected}, got {value!r:.80}")
        return self.load()(*first, **named)


class Registry(Mapping[str, E]):
    """Entries of one kind; the modules of `package` declare theirs by the decorator `register_KIND`."""

    def __init__(self, kind: str, package: str, entry: type[E]) -> None:
        self.kind, self._package, self._decorator, self._entry = kind, package, f"register_{kind}", entry
        self._added: dict[str, E] = {}

    @property
    def _entries(self) -> dict[str, E]:
        if not self._added:
            for each in declared(self._package, self._decorator).values():
                target = f"{each.module}:{each.attribute}"
                self._added[each.name] = self._entry(each.name, target, each.description, each.source)
        return self._added

    def __getitem__(self, name: str) -> E:
        """The entry of that name; `ValueError` with the nearest ones if there is none."""
        if not isinstance(name, str) or name not in self._entries:
            raise unknown_name(self.kind, name, self._entries)
        return self._entries[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entry: E) -> E:
        """Make an entry known; a name that something else has is a `ValueError`."""
        known = self._entries.get(entry.name)
        if known is not None and known.class_path != entry.class_path:
            raise ValueError(f"{self._decorator}: the name {entry.name!r} is taken by {known.class_path}")
        self._entries[entry.name] = entry
        return entry

    def decorator(self, name: str, description: str, source: str) -> Callable[[T], T]:
        """Adds the class or function that it stands over."""

        def register(target: T) -> T:
            self.add(self._entry(name, target, description, source))
            return target

        return register

    def matching(self, pattern: str) -> list[str]:
        """Names that match a shell pattern, sorted."""
        return sorted(fnmatch.filter(self._entries, pattern))

    def by_class(self) -> dict[str, str]:
        """The name of each entry by its `class_path`."""
        return {entry.class_path: name for name, entry in self._entries.items()}
