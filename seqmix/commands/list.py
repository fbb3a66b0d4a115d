"""`seqmix list`: what there is, by name and with a line each."""

import fnmatch
from collections.abc import Callable
from pathlib import Path

from seqmix._suggest import unknown_name
from seqmix.commands._messages import exits

__all__ = ["main"]


def _mixers() -> dict[str, str]:
    from seqmix.mixers.registry import get_mixer, list_mixers

    return {name: get_mixer(name).description for name in list_mixers()}


def _tasks() -> dict[str, str]:
    from seqmix.tasks.registry import get_task, list_tasks

    return {name: get_task(name).description for name in list_tasks()}


def _configs() -> dict[str, str]:
    from seqmix.training.config.files import list_configs

    return list_configs()


def _boards() -> dict[str, str]:
    from seqmix.leaderboard.boards.board import list_boards

    return list_boards()


def _grids() -> dict[str, str]:
    from seqmix.leaderboard.boards.grid import list_grids

    return list_grids()


def _optimizers() -> dict[str, str]:
    from seqmix.optim.registry import get_optimizer, list_optimizers

    return {name: get_optimizer(name).line for name in list_optimizers()}


_LISTS: dict[str, Callable[[], dict[str, str]]] = {
    "mixers": _mixers,
    "tasks": _tasks,
    "configs": _configs,
    "boards": _boards,
    "grids": _grids,
    "optimizers": _optimizers,
}

_HELP = f"""usage: seqmix list {{{"|".join(_LISTS)}}} [PATTERN]
       seqmix list optimizers --docs FILE       write their table between the markers of FILE
       seqmix list parameters --help            which optimizer takes each parameter of a model

Names with one line each; PATTERN is a shell pattern such as 'a5*'."""


@exits()
def main(argv: list[str]) -> int:
    """Run `seqmix list`; returns the exit status."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    kind, *patterns = argv
    if kind == "parameters":
        from seqmix.commands.parameters import main as parameters

        return parameters(patterns)
    if kind not in _LISTS:
        raise unknown_name("list", kind, (*_LISTS, "parameters"))
    if kind == "optimizers" and patterns[:1] == ["--docs"] and len(patterns) == 2:
        from seqmix.optim.table import write_registry

        write_registry(Path(patterns[1]))
        return 0
    rows = {name: text for name, text in _LISTS[kind]().items() if fnmatch.fnmatch(name, (patterns or ["*"])[0])}
    width = max(map(len, rows), default=0)
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")
    return 0
