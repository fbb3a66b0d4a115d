"""Options of the command line: registry entries and configs are read here, the rest is left to Lightning's parser."""

import importlib
import inspect
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from seqmix._suggest import unknown_name
from seqmix.tasks.registry import task_names
from seqmix.training.config.files import (
    MODEL_ENTRIES,
    SECTIONS,
    Config,
    load_config,
    merge,
    parse_value,
)

__all__ = ["check_classes", "check_intervals", "check_keys", "read_options"]


def read_options(
    options: list[str], parser: LightningArgumentParser
) -> tuple[Config, list[tuple[str, Any]], list[str], dict[str, Any]]:
    """What options say: the configs named, changes to them by path, options left for Lightning's parser, and paths."""
    config: Config = {}
    changes: list[tuple[str, Any]] = []
    rest: list[str] = []
    paths: dict[str, Any] = {"config": [], "trust": [], "ckpt_path": None, "run_dir": None}
    # The seed too: the task's stream follows it.
    own = (*MODEL_ENTRIES, "data", "seed_everything", "pretrain", *SECTIONS)
    position = 0
    while position < len(options):
        option = options[position]
        position += 1
        key, equals, value = option.partition("=")
        key = {"-c": "--config"}.get(key, key)
        if not key.startswith("--"):
            raise ValueError(f"expected an option that starts with --, got {option!r}")
        path = key[2:]
        if path.startswith("model.") and path.split(".")[1] in MODEL_ENTRIES:
            path = path.removeprefix("model.")
        given = bool(equals)
        if not equals and position < len(options) and not options[position].startswith("--"):
            value, given = options[position], True
            position += 1
        if path.split(".")[0] not in (*own, *paths) or path.endswith(".help"):
            _check_option(key, parser)
            rest += [option] if equals or not given else [option, value]
            continue
        if not given:
            raise ValueError(f"{key}: expected a value")
        if path == "config":
            config = merge(config, load_config(value))
            paths["config"].append(value)
        elif path == "trust":
            paths["trust"].append(value)
        elif path in paths:
            paths[path] = value
        else:
            changes.append((path, parse_value(value)))
    return config, changes, rest, paths


def _leaves(parser: LightningArgumentParser) -> set[str]:
    # An option that takes a class has a second one, `--option.help`, which lists that class's arguments.
    names = {action.dest.removesuffix(".help") for action in parser._actions}
    return {name for name in names if not any(other.startswith(f"{name}.") for other in names)}


def _check_option(key: str, parser: LightningArgumentParser) -> None:
    leaves = _leaves(parser)
    path = key[2:].removesuffix("+").removesuffix(".help")
    if path in (*leaves, "print_config") or any(path.startswith(f"{leaf}.") for leaf in leaves):
        return
    # Nobody reads a list of a hundred options: those of the same group are enough.
    group = path.partition(".")[0]
    known = {leaf for leaf in leaves if leaf.partition(".")[0] == group}
    known = known or {leaf.partition(".")[0] for leaf in leaves} | {*MODEL_ENTRIES, *SECTIONS}
    raise unknown_name("option", key, [f"--{name}" for name in known])


def check_keys(config: Config, parser: LightningArgumentParser) -> None:
    """`ValueError` with the nearest names for a key of `trainer`, `model` or the config itself that does not exist."""
    leaves = _leaves(parser)
    groups = {leaf.partition(".")[0] for leaf in leaves}
    for key, value in config.items():
        if key not in groups:
            raise unknown_name("key of the config:", key, [*groups, *MODEL_ENTRIES, *SECTIONS])
        if isinstance(value, dict) and key not in ("data", "pretrain"):
            known = {leaf.split(".")[1] for leaf in leaves if leaf.startswith(f"{key}.")}
            for argument in value:
                if argument not in known:
                    raise unknown_name(f"argument of {key}:", argument, known)


def check_intervals(trainer: Config) -> None:
    """`ValueError` for an interval of the trainer that never ends; Lightning would divide by it."""
    for name in ("val_check_interval", "check_val_every_n_epoch", "accumulate_grad_batches"):
        value = trainer.get(name)
        if isinstance(value, int | float) and not value > 0:
            raise ValueError(f"trainer.{name}: expected a positive number, got {value!r}")


def check_classes(config: Config) -> None:
    """The `ValueError` of the task or callback that cannot be built; Lightning's parser would bury it."""
    callbacks = {class_path: section for section, (class_path, _) in SECTIONS.items()}
    tasks = {path: f"task {name!r}" for path, name in task_names().items()}
    for entry in (config.get("data"), *config.get("trainer", {}).get("callbacks", [])):
        class_path = str(entry.get("class_path")) if isinstance(entry, dict) else ""
        owner = tasks.get(class_path) or callbacks.get(class_path)
        if owner is None:
            continue
        module, _, name = class_path.rpartition(".")
        constructor = getattr(importlib.import_module(module), name)
        arguments, known = entry.get("init_args") or {}, inspect.signature(constructor).parameters
        for argument in arguments:
            if argument not in known:
                raise unknown_name(f"argument of {owner}:", argument, known)
        try:
            constructor(**arguments)
        except TypeError as error:
            raise ValueError(f"{owner}: {error}, got {arguments}") from None
