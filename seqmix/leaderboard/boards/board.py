"""A board as a YAML file: mixers by tasks at one budget, over learning rates and seeds.

name: cpu                                     of its records; the file's by default
budget: {parameters: 60000}                   or {state_size: 2048}, or {flops: 1.0e13}: what all runs have equal
tasks:                                        columns: a config, whose mixer and width are replaced, and changes
  parity: {config: board-parity}
  a5: {config: board-a5, set: {trainer.max_steps: 800}}
mixers:                                       rows: a registered mixer with arguments, on some tasks only if said
  bd-lru: {name: bd-lru, block_size: 4}
  bd-lru-2: {name: bd-lru, block_size: 2, tasks: [parity]}
rates: {low: 3.0e-4, high: 1.0e-1, points: 6}     learning rates, evenly spaced in their logarithm; or a list
seeds: {grid: [0], best: [0, 1, 2, 3, 4]}     at every rate; at the best one, chosen on validation data

base: cpu                                     a board that everything else is from, its name included
tasks: [parity, a5]                           and those of its tasks that are wanted
"""

import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seqmix._bounded import read_text
from seqmix._checks import is_number, is_whole, log_grid
from seqmix._suggest import unknown_name
from seqmix._trust import inside
from seqmix.leaderboard.boards.budget import BUDGETS, Budget
from seqmix.leaderboard.sweep.plan import check_count
from seqmix.mixers.registry import get_mixer
from seqmix.models._specs import check_mixers, named
from seqmix.training.config.changes import Change, changed
from seqmix.training.config.files import FOLDER, Config, find_config, load_config, parse_value, shipped
from seqmix.training.foreign import check_settings

__all__ = ["Board", "Column", "find_board", "list_boards", "load_board", "settings_of"]

BOARDS = FOLDER / "boards"
_KEYS = ("name", "budget", "tasks", "mixers", "rates", "seeds")


@dataclass(frozen=True)
class Column:
    """A task of a board: a config, and changes to it as KEY=VALUE."""

    config: str
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Board:
    """What a file says, checked.

    Attributes:
        name: of the board.
        budget: what its runs have equal.
        tasks: its columns, in order.
        mixers: its rows, in order: entries of the registry.
        only: the tasks of rows that are not on all.
        rates: learning rates.
        grid_seeds, best_seeds: seeds at every rate, and at the best.
    """

    name: str
    budget: Budget
    tasks: dict[str, Column]
    mixers: dict[str, dict[str, Any]]
    only: dict[str, tuple[str, ...]]
    rates: tuple[float, ...]
    grid_seeds: tuple[int, ...]
    best_seeds: tuple[int, ...]

    def rows(self, task: str) -> list[str]:
        """The rows that have this task."""
        return [row for row in self.mixers if task in self.only.get(row, self.tasks)]


def settings_of(column: Column, *, within: Path | None = None) -> Config:
    """The config of a task, with the board's changes; `within` as in `load_config`."""
    settings = load_config(column.config, within=within)
    for change in column.overrides:
        settings = changed(settings, change)
    return settings


def list_boards() -> dict[str, str]:
    """Shipped boards: name and first comment line."""
    return shipped(BOARDS)


def find_board(name: str) -> Path | None:
    """The file of a board given by path or by the name of a shipped one; None for what is a config, or nothing."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        content = parse_value(read_text(path))
        return path if isinstance(content, dict) and content.keys() & {"mixers", "tasks"} else None
    shipped = BOARDS / f"{name}.yaml"
    return shipped if path.name == name and shipped.is_file() else None


def load_board(path: Path, *, trust: Iterable[str] | None = (), within: Path | None = None) -> Board:
    """The board in a file, which may be somebody else's.

    Args:
        path: of the file.
        trust: modules beyond seqmix that it may name, see `seqmix._trust`.
        within: a folder that no base and no config may lie outside of, but for shipped ones.

    Raises:
        ValueError: text that is no YAML, a key, mixer, task or config that does not exist (with the nearest names), one
            that is missing, and values that do not fit; each with the file in front.
    """
    try:
        return _board(parse_value(read_text(path)), path, trust, within)
    except ValueError as error:
        raise ValueError(f"board {path}: {error}") from None


def _board(content: Any, path: Path, trust: Iterable[str] | None, within: Path | None) -> Board:
    content, folder = _on_base(_mapping("the file", content, (*_KEYS, "base")), path, within)
    _mapping("the file", content, _KEYS, needed=_KEYS[1:])
    name = content.get("name", path.stem)
    if not isinstance(name, str) or not name.strip():
        raise ValueError(f"name: expected text, got {name!r}")
    tasks = {}
    for key, value in _entries("tasks", content["tasks"]):
        tasks[str(key)] = _column(str(key), value, folder)
        _check_column(tasks[str(key)], trust, within, f"tasks.{key}")
    mixers, only = {}, {}
    for row, entry in _entries("mixers", content["mixers"]):
        mixers[str(row)] = _mixer(str(row), entry, trust)
        if "tasks" in mixers[str(row)]:
            only[str(row)] = tuple(_tasks(f"mixers.{row}.tasks", mixers[str(row)].pop("tasks"), tasks))
    grid, best = _seeds(content["seeds"])
    rates = _rates(content["rates"])
    cells = sum(len(only.get(row, tasks)) for row in mixers)
    check_count("rates x seeds x tasks x mixers", len(rates) * len(grid) + len({*best} - {*grid}), cells)
    return Board(name, _budget(content["budget"]), tasks, mixers, only, rates, grid, best)


def _on_base(content: dict[str, Any], path: Path, within: Path | None) -> tuple[dict[str, Any], Path]:
    """With everything that it does not say itself from the board under `base`, and the folder of its configs."""
    if "base" not in content:
        return content, path.parent
    base = find_board(str(content["base"]))
    if base is None:
        raise unknown_name("board in base:", content["base"], list_boards())
    if within is not None and base.parent != BOARDS:
        inside(within, os.path.relpath(base, within), "base")
    own = {key: value for key, value in content.items() if key != "base"}
    beneath = parse_value(read_text(base))
    if isinstance(own.get("tasks"), list):
        tasks = beneath.get("tasks") or {}
        own["tasks"] = {task: tasks[task] for task in _tasks("tasks", own["tasks"], tasks)}
    return {"name": base.stem} | beneath | own, base.parent


def _mapping(where: str, value: Any, known: Iterable[str], needed: Iterable[str] = ()) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: expected {', '.join(known)}, got {value!r:.80}")
    for key in value:
        if key not in known:
            raise unknown_name(f"key of {where}:" if where != "the file" else "key:", key, known)
    for key in needed:
        if key not in value:
            raise ValueError(f"{key if where == 'the file' else f'{where}.{key}'}: missing")
    return value


def _entries(where: str, value: Any) -> list[tuple[Any, Any]]:
    if not isinstance(value, dict) or not value:
        raise ValueError(f"{where}: expected one or more names with what they stand for, got {value!r:.80}")
    return list(value.items())


def _budget(value: Any) -> Budget:
    value = _mapping("budget", value, BUDGETS)
    if len(value) != 1:
        raise ValueError(f"budget: expected exactly one of {', '.join(BUDGETS)}, got {', '.join(value) or 'none'}")
    ((kind, amount),) = value.items()
    if not is_number(amount) or not 0 < amount < math.inf:
        raise ValueError(f"budget.{kind}: expected a positive number, got {amount!r}")
    return Budget(kind, float(amount))


def _column(key: str, value: Any, folder: Path) -> Column:
    where = f"tasks.{key}"
    value = _mapping(where, {"config": value} if isinstance(value, str) else value, ("config", "set"), ("config",))
    beside = folder / f"{value['config']}.yaml"
    config = str(beside) if beside.is_file() else str(value["config"])
    find_config(config)
    changes = value.get("set") or {}
    if not isinstance(changes, dict):
        raise ValueError(f"{where}.set: expected keys and values, got {changes!r:.80}")
    for name, change in changes.items():
        if isinstance(change, dict) and name in ("trainer", "model"):
            raise ValueError(
                f"{where}.set: expected dotted keys such as {name}.{next(iter(change), '...')}, got {name}"
            )
        if str(name) in ("mixer", "model.d_model", "optimizer.lr", "seed_everything") or str(name).startswith("mixer."):
            raise ValueError(f"{where}.set: {name} is what a board decides itself")
    return Column(config, tuple(Change(str(name), change) for name, change in changes.items()))


def _check_column(column: Column, trust: Iterable[str] | None, within: Path | None, where: str) -> None:
    """Of a config that is not shipped, or that is changed, what somebody else's must not say."""
    shipped = find_config(column.config).parent == FOLDER
    if trust is None or (shipped and not column.overrides):
        return
    check_settings(settings_of(column, within=within), trust, where)


def _mixer(row: str, value: Any, trust: Iterable[str] | None) -> dict[str, Any]:
    value = {"name": value} if isinstance(value, str) else value
    value = named(value) if isinstance(value, Mapping) else value
    if not isinstance(value, Mapping) or "name" not in value:
        raise ValueError(
            f"mixers.{row}: expected {{name: bd-lru, block_size: 4}}, {{module: my_package.MyLayer, n_heads: 4}} or "
            f"the like, got {value!r}"
        )
    check_mixers(dict(value), trust, f"mixers.{row}")
    get_mixer(value["name"])
    return dict(value)


def _tasks(where: str, value: Any, known: Iterable[str]) -> list[str]:
    if not isinstance(value, list) or not value:
        raise ValueError(f"{where}: expected a list of tasks of the board, got {value!r}")
    for name in value:
        if not isinstance(name, str) or name not in known:
            raise unknown_name(f"task in {where}:", str(name), known)
    return value


def _rates(value: Any) -> tuple[float, ...]:
    if isinstance(value, dict):
        keys = ("low", "high", "points")
        value = _mapping("rates", value, keys, keys)
        low, high, points = (value[key] for key in keys)
        if not (is_number(low) and is_number(high) and 0 < low < high < math.inf):
            raise ValueError(f"rates: expected 0 < low < high, got {low!r} and {high!r}")
        if not is_whole(points, 2):
            raise ValueError(f"rates.points: expected an integer of at least 2, got {points!r}")
        check_count("rates.points", points)
        return log_grid(low, high, points)
    if not isinstance(value, list) or not value or not all(is_number(rate) for rate in value):
        raise ValueError(f"rates: expected low, high and points, or a list of learning rates, got {value!r:.80}")
    if any(not 0 < rate < math.inf for rate in value) or len({*value}) < len(value):
        raise ValueError(f"rates: expected positive numbers, each once, got {value!r:.80}")
    return tuple(map(float, value))


def _seeds(value: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    value = _mapping("seeds", value, ("grid", "best"), ("grid",))
    for key, seeds in value.items():
        if not isinstance(seeds, list) or not seeds:
            raise ValueError(f"seeds.{key}: expected a list of integers of at least 0, each once, got {seeds!r:.80}")
        if not all(is_whole(seed, 0) for seed in seeds):
            raise ValueError(f"seeds.{key}: expected integers of at least 0, got {seeds!r:.80}")
        if len({*seeds}) < len(seeds):
            raise ValueError(f"seeds.{key}: expected integers of at least 0, each once, got {seeds!r:.80}")
    return tuple(value["grid"]), tuple(value.get("best", value["grid"]))
