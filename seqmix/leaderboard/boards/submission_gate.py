"""What is looked at before a submission is worked with: where it leads, and what code it names."""

import contextlib
import sys
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from seqmix._trust import import_trusted
from seqmix.leaderboard.boards.board import Board, settings_of
from seqmix.leaderboard.boards.submissions import Submission
from seqmix.leaderboard.records.schema import Record
from seqmix.training.foreign import check_settings

__all__ = ["at", "board_paths_out", "in_folder", "named_code", "paths_out"]


def at(found: Submission, line: int) -> str:
    """`FILE:LINE` of a record."""
    return f"{found.folder / 'runs.jsonl'}:{line}"


@contextlib.contextmanager
def in_folder(folder: Path, trust: Collection[str]) -> Iterator[None]:
    """Work in the folder of a submission. Trusted code of it is found there, behind all else; without trust nothing is.

    Raises:
        ValueError: a trusted module that is not there, or that is also elsewhere.
    """
    root = folder.resolve()
    path = [*sys.path]
    try:
        with contextlib.chdir(root):
            if trust:
                sys.path.append(str(root))
            import_trusted(trust)
            for name in {module.partition(".")[0] for module in trust}:
                file = getattr(sys.modules[name], "__file__", None) or ""
                if ((root / f"{name}.py").exists() or (root / name).exists()) and not Path(file).is_relative_to(root):
                    raise ValueError(f"--trust {name}: {folder} has a module of this name, and so has {file}")
            yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file is not None and Path(file).is_relative_to(root):
                del sys.modules[name]


def paths_out(record: Record) -> Iterator[str]:
    """What in the settings of a run leads out of the folder."""
    for name in ("config", "overrides", "settings"):
        for field, text in _texts(f"identity.{name}", record["identity"][name]):
            if _leads_out(text):
                yield f"{field}: a path out of the folder: {text!r:.80}"


def named_code(found: Submission, trust: Collection[str]) -> Iterator[str]:
    """What the settings of runs must not say, each once."""
    told = set()
    for line, record in found.runs:
        try:
            check_settings(record["identity"]["settings"], trust, "identity.settings")
        except ValueError as error:
            if str(error) not in told:
                yield f"{at(found, line)}: {error}"
            told.add(str(error))


def _texts(where: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _texts(f"{where}.{key}", item)
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _texts(f"{where}.{index}", item)
    elif isinstance(value, str):
        yield where, value


def _leads_out(text: str) -> bool:
    path = text.partition("=")[2] or text  # of KEY=VALUE
    return path.startswith(("/", "~/")) or ".." in PurePosixPath(path).parts


def board_paths_out(found: Submission, board: Board) -> Iterator[str]:
    """What in the settings of a board's tasks leads out of the folder that one is in."""
    for name, column in board.tasks.items():
        for field, text in _texts(f"tasks.{name}", settings_of(column, within=Path.cwd())):
            if _leads_out(text):
                yield f"{found.folder / 'board.yaml'}: {field}: a path out of the folder: {text!r:.80}"
