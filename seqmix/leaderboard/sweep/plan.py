"""From configs, learning rates and seeds to a list of runs, each with an id that says what it is."""

import hashlib
import json
import math
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypedDict, Unpack

from seqmix._checks import is_whole
from seqmix.leaderboard.records.checks import unwritable
from seqmix.leaderboard.records.schema import plain
from seqmix.training.config.changes import Change, changed
from seqmix.training.config.checks import check_config
from seqmix.training.config.files import load_config, set_by_path

__all__ = ["Place", "Run", "check_count", "plan_run", "plan_runs", "plan_settings"]


_LEAST_0 = ("lr", "weight_decay", "warmup", "")
_MOST_RUNS = 100_000  # tables of more records take minutes


@dataclass(frozen=True)
class Run:
    """One run before it is started.

    Attributes:
        config: name of a shipped config, or a file.
        overrides: KEY=VALUE on top of it, the learning rate last.
        seed: of weights and training stream.
        settings: the config with its bases, the overrides and the seed.
        id: hash of name, settings and seed, and of the place on a board.
        board, entry, column: the board that it is for, its row there and its task; None outside boards.
        label: what it is called while it runs, instead of its config and changes.
    """

    config: str
    overrides: tuple[str, ...]
    seed: int
    settings: dict[str, Any] = field(compare=False, repr=False)
    id: str = field(compare=False)
    board: str | None = None
    entry: str | None = None
    column: str | None = None
    label: str = field(default="", compare=False)

    @property
    def name(self) -> str:
        """Name of the config."""
        return Path(self.config).stem

    @property
    def kind(self) -> str:
        """What it has in common with runs that take as long: task and row, or the config."""
        return self.label or (self.name if self.board is None else f"{self.column} {self.entry}")

    @property
    def command(self) -> str:
        """The command line that runs it."""
        words = ["--config", self.config, "--seed_everything", str(self.seed)]
        return shlex.join(["seqmix", "fit", *words, *(f"--{text}" for text in self.overrides)])

    def __str__(self) -> str:
        rates = [text.partition("=")[2] for text in self.overrides if text.startswith("optimizer.lr=")]
        # On a board the row says it; elsewhere the first few changes tell the runs of a config apart.
        told = self.label or self.board
        changes = [text for text in self.overrides if not text.startswith("optimizer.lr=")][: 0 if told else 3]
        what = " ".join([self.kind, *changes])
        return ", ".join([what, *(f"learning rate {rate}" for rate in rates[-1:]), f"seed {self.seed}"])


def check_count(where: str, *factors: int) -> None:
    """`ValueError` for more runs than a sweep is for, from how many there are of each thing, before any is planned."""
    if (count := math.prod(factors)) > _MOST_RUNS:
        raise ValueError(f"{where}: expected at most {_MOST_RUNS:,} runs, got {count:,}")


class Place(TypedDict, total=False):
    """The board that a run is for, its row there and its task."""

    board: str | None
    entry: str | None
    column: str | None


def plan_run(config: str, overrides: Sequence[str], seed: int, **place: Unpack[Place]) -> Run:
    """The run of a config with overrides and a seed, for a row and a task of a board if it has one.

    Raises:
        ValueError: an unknown config (with the nearest names), an override that is not KEY=VALUE, a negative seed,
            a key or value that no run takes, or what no record can hold.
    """
    if not is_whole(seed, 0):
        raise ValueError(f"--seeds: expected integers of at least 0, got {seed!r:.80}")
    settings = load_config(config)
    for change in overrides:
        settings = changed(settings, change)
    try:
        check_config(settings)
    except ValueError as error:
        raise ValueError(f"config {Path(config).name}: {error}") from None
    return plan_settings(config, overrides, settings, seed, **place)


def plan_settings(
    config: str, overrides: Sequence[str], settings: dict[str, Any], seed: int, **place: Unpack[Place]
) -> Run:
    """The run of `settings`, which the file `config` with the overrides has.

    Raises:
        ValueError: what no record can hold, so that the run would be made for nothing.
    """
    settings = set_by_path(settings, "seed_everything", seed)
    _check_recorded(Path(config).name, settings, overrides)
    settings = plain(settings)
    content = {"config": Path(config).stem, "settings": settings, "seed": seed}
    if place.get("board") is not None:
        # A record has one place: what stands in two cells is two runs.
        content |= {"entry": None, "column": None, **place}
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    return Run(config, tuple(overrides), seed, settings, digest[:16], **place)


def _check_recorded(config: str, settings: dict[str, Any], overrides: Sequence[str]) -> None:
    wrong = unwritable("", settings) or unwritable("overrides", [config, *overrides])
    objective = settings.get("objective") or "targets"
    if (objective.get("name") if isinstance(objective, dict) else objective) != "targets":
        raise ValueError(f"objective: records are ranked by exact measures, expected targets, got {objective!r:.80}")
    trainer = settings.get("trainer")
    numbers = {name: settings.get(name) for name in ("optimizer", "schedule")}
    numbers["trainer.gradient_clip_val"] = trainer.get("gradient_clip_val") if isinstance(trainer, dict) else None
    for name, entry in numbers.items():
        for key, value in entry.items() if isinstance(entry, dict) else [("", entry)]:
            least = 0.0 if key in _LEAST_0 else -sys.float_info.max
            if isinstance(value, int | float) and not least <= value < math.inf:
                expected = f"a finite number{' of at least 0' if key in _LEAST_0 else ''}"
                wrong.append(f"{'.'.join(filter(None, (name, key)))}: expected {expected}, got {value!r}")
    if wrong:
        raise ValueError(f"config {config}: {wrong[0]}, which no record of a run can hold")


def plan_runs(
    configs: Sequence[str], seeds: Sequence[int], rates: Sequence[float] | None, overrides: Sequence[str]
) -> list[Run]:
    """Every (config, learning rate, seed): the first seed of everything, then the second, so that a sweep that is cut
    short has something of each. Without `rates` each config keeps its own.

    Raises:
        ValueError: see `plan_run`; also two files with one name, or a learning rate that is not positive.
    """
    check_count("CONFIG x --lr x --seeds", len(configs), len(rates or [0]), len(seeds))
    names: dict[str, str] = {}
    for config in dict.fromkeys(configs):
        other = names.setdefault(Path(config).stem, config)
        if other != config:
            raise ValueError(f"CONFIG: records know configs by name, got {other!r} and {config!r}")
    for rate in rates or ():
        if not 0 < rate < float("inf"):
            raise ValueError(f"--lr: expected positive numbers, got {rate!r}")
    changes = [(Change("optimizer.lr", rate),) for rate in dict.fromkeys(rates)] if rates else [()]
    return [
        plan_run(config, (*overrides, *change), seed)
        for seed in dict.fromkeys(seeds)
        for config in names.values()
        for change in changes
    ]
