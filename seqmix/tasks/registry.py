"""Tasks by name: what `data: {name: word-problem, group: A5}` in a config looks up."""

from collections.abc import Callable
from typing import Any

from seqmix._registry import Entry, Registry

__all__ = ["TaskEntry", "create_task", "get_task", "list_tasks", "register_task", "task_names"]


class TaskEntry(Entry):
    """One registered task; `target` is its class, or `"module:Class"`: a list of the tasks must not need Lightning."""


_TASKS = Registry("task", "seqmix.tasks", TaskEntry)


def register_task(
    name: str, target: Callable[..., Any] | str | None = None, *, description: str, source: str = ""
) -> Any:
    """Make a `Task` known by `name`: a decorator, or for a `target`, a class or `"module:Class"`, its entry.

    Tasks of the library stand under the decorator in the modules of `seqmix.tasks`, which are imported when a task is
    first built: a list of them needs no Lightning. A name that another task has is a `ValueError`.
    """
    if target is None:
        return _TASKS.decorator(name, description, source)
    return _TASKS.add(TaskEntry(name, target, description, source))


def get_task(name: str) -> TaskEntry:
    """The entry of one task; an unknown name raises `ValueError` with the nearest ones."""
    return _TASKS[name]


def list_tasks(filter: str = "*") -> list[str]:
    """Names of the registered tasks that match a shell pattern, sorted."""
    return _TASKS.matching(filter)


def task_names() -> dict[str, str]:
    """Names of the registered tasks by the path of their class, as Lightning's configs write it."""
    return _TASKS.by_class()


def create_task(name: str, **kwargs: Any) -> Any:
    """Build a task, a `LightningDataModule`, by name.

    Raises:
        ValueError: an unknown name or argument, with the nearest ones, or a value of a wrong type.
        ImportError: Lightning is not installed.

    Example:
        >>> from seqmix.tasks import create_task
        >>> create_task("word-problem", group="S3", train_length=8).vocab_size
        7
    """
    return get_task(name).build("task", **kwargs)
