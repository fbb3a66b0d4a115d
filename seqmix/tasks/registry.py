"""Tasks by name: what `data: {name: word-problem, group: A5}` in a config looks up."""

import fnmatch
import importlib
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from seqmix._suggest import unknown_name

__all__ = ["TaskEntry", "create_task", "get_task", "list_tasks", "register_task"]


@dataclass(frozen=True)
class TaskEntry:
    """One registered task: what builds it, in one line what it is, and where it comes from.

    `target` is a class, or `"module:Class"`, which is imported when the task is first built: a list of the tasks
    must not need Lightning.
    """

    name: str
    target: Callable[..., Any] | str
    description: str
    source: str

    @property
    def class_path(self) -> str:
        """The class as Lightning's configs write it: `module.Class`."""
        if isinstance(self.target, str):
            return self.target.replace(":", ".")
        return f"{self.target.__module__}.{self.target.__qualname__}"

    def load(self) -> Callable[..., Any]:
        """The class; without Lightning an `ImportError` that names what to install."""
        if not isinstance(self.target, str):
            return self.target
        module, _, name = self.target.partition(":")
        return getattr(importlib.import_module(module), name)


_ENTRIES: dict[str, TaskEntry] = {}


def register_task(name: str, target: Callable[..., Any] | str, *, description: str, source: str = "") -> TaskEntry:
    """Make a `Task` known by `name`; `target` is its class or `"module:Class"`. A taken name is a `ValueError`."""
    if name in _ENTRIES:
        raise ValueError(f"register_task: the name {name!r} is taken by {_ENTRIES[name].class_path}")
    _ENTRIES[name] = TaskEntry(name, target, description, source)
    return _ENTRIES[name]


def get_task(name: str) -> TaskEntry:
    """The entry of one task; an unknown name raises `ValueError` with the nearest ones."""
    if name not in _ENTRIES:
        raise unknown_name("task", name, _ENTRIES)
    return _ENTRIES[name]


def list_tasks(filter: str = "*") -> list[str]:
    """Names of the registered tasks that match a shell pattern, sorted."""
    return sorted(fnmatch.filter(_ENTRIES, filter))


def create_task(name: str, **kwargs: Any) -> Any:
    """Build a task, a `LightningDataModule`, by name.

    Raises:
        ValueError: an unknown name or argument, with the nearest ones.
        ImportError: Lightning is not installed.

    Example:
        >>> from seqmix.tasks import create_task
        >>> create_task("word-problem", group="S3", train_length=8).vocab_size
        7
    """
    constructor = get_task(name).load()
    known = inspect.signature(constructor).parameters
    for key in kwargs:
        if key not in known:
            raise unknown_name(f"argument of task {name!r}:", key, known)
    return constructor(**kwargs)
