"""A grid as a YAML file: every combination of some settings of a config, with some seeds.

config: s3-fp-rnn-paper                       a shipped config, or a file beside this one
set: {trainer.max_steps: 800}                 changes to it, the same for all
grid: {mixer.rank: [0, 2], mixer.write: [b, b*v]}     settings with their values: every combination is run
seeds: [0, 1, 2]                              the first seed of every combination, then the second

or a list of such, one after the other.
"""

import itertools
import math
from pathlib import Path
from typing import Any

from seqmix._bounded import read_text
from seqmix.leaderboard.sweep.plan import Run, check_count, plan_run
from seqmix.training.config.changes import Change
from seqmix.training.config.files import FOLDER, parse_value, shipped

__all__ = ["find_grid", "grid_runs", "list_grids"]

GRIDS = FOLDER / "grids"
_KEYS = ("config", "set", "grid", "seeds")


def list_grids() -> dict[str, str]:
    """Shipped grids: name and first comment line."""
    return shipped(GRIDS)


def find_grid(name: str) -> Path | None:
    """The file of a grid given by path or by the name of a shipped one; None for what is no grid."""
    path = Path(name)
    if path.suffix in (".yaml", ".yml") and path.is_file():
        content = parse_value(read_text(path))
        first = content[0] if isinstance(content, list) and content else content
        return path if isinstance(first, dict) and "grid" in first else None
    shipped = GRIDS / f"{name}.yaml"
    return shipped if path.name == name and shipped.is_file() else None


def grid_runs(path: Path) -> list[Run]:
    """The runs of a grid, in the order of the file.

    Raises:
        ValueError: a part without a config, a key or a setting that does not exist, values or seeds that are no lists;
            each with the file in front.
    """
    content = parse_value(read_text(path))
    try:
        parts = [_checked(part) for part in (content if isinstance(content, list) else [content])]
        check_count("grid x seeds", sum(len(seeds) * math.prod(map(len, grid.values())) for _, _, grid, seeds in parts))
        runs = [run for part in parts for run in _runs(*part, path.parent)]
    except ValueError as error:
        raise ValueError(f"grid {path}: {error}") from None
    return list({run.id: run for run in runs}.values())


def _checked(part: Any) -> tuple[str, dict[str, Any], dict[str, list[Any]], list[Any]]:
    """Config, changes to it, values of settings, seeds."""
    if not isinstance(part, dict) or not {"config", "grid"} <= part.keys() <= {*_KEYS}:
        raise ValueError(f"expected parts with config, grid and if need be set and seeds, got {part!r:.120}")
    changes, grid, seeds = part.get("set") or {}, part["grid"], part.get("seeds", [0])
    if not isinstance(changes, dict):
        raise ValueError(f"set: expected settings with values, got {changes!r:.80}")
    if not isinstance(grid, dict):
        raise ValueError(f"grid: expected settings with lists of values, got {grid!r:.80}")
    for key, values in {**grid, "seeds": seeds}.items():
        if not isinstance(values, list) or not values:
            raise ValueError(f"{key}: expected a list of values, got {values!r:.80}")
    return str(part["config"]), changes, grid, seeds


def _runs(
    config: str, changes: dict[str, Any], grid: dict[str, list[Any]], seeds: list[Any], folder: Path
) -> list[Run]:
    beside = folder / f"{config}.yaml"
    config = str(beside) if beside.is_file() else config
    fixed = [_change(key, value) for key, value in changes.items()]
    # The last setting changes fastest.
    combinations = [[*fixed, *map(_change, grid, values)] for values in itertools.product(*grid.values())]
    return [plan_run(config, combination, seed) for seed in seeds for combination in combinations]


def _change(key: Any, value: Any) -> str:
    return Change(str(key), value, value if isinstance(value, str) else None)
