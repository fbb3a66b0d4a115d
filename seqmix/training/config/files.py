"""Config files: found by name, stacked with `base:`, and merged with what the command line says.

A config holds constructor arguments: `trainer`, `model`, `data`, `seed_everything`. Beyond Lightning's own form,
    base: NAME                                a config to start from; what follows changes it
    mixer: {name: bd-lru, block_size: 5}      the same as under `model`; so are `optimizer`, `schedule` and
    objective: {name: gidd, p_u: 0.1}         what it is trained for, see `seqmix.training.objectives`
    data: {name: word-problem, group: A5}     a task by its registered name
    curriculum: {start: 2}                    a callback with its arguments, see SECTIONS; null leaves it out
    pretrain: {steps: 500, mask_rate: 0.5}    a first stage on the task's own inputs, see `seqmix.training.pretraining`
Another `name` starts an entry afresh; without one the given arguments change the entry as it was.
"""

import os
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import lru_cache
from pathlib import Path
from typing import Any

from seqmix._bounded import parse_yaml, read_text
from seqmix._suggest import unknown_name
from seqmix._trust import inside
from seqmix.tasks.registry import get_task, task_names

__all__ = [
    "OBJECTIVES",
    "SECTIONS",
    "TRAINER",
    "canonical",
    "expand",
    "find_config",
    "list_configs",
    "load_config",
    "merge",
    "parse_value",
    "shipped",
]

Config = dict[str, Any]

FOLDER = Path(__file__).parents[2] / "configs"
MODEL_ENTRIES = ("mixer", "optimizer", "schedule", "objective")
# What a model is trained for, and what is made of it.
OBJECTIVES = {"targets": "seqmix.training.objectives:Targets", "gidd": "seqmix.training.objectives:Gidd"}
# Arguments of the trainer unless the config says otherwise.
TRAINER: Config = {
    "max_steps": 1000,
    "gradient_clip_val": 1.0,
    "log_every_n_steps": 50,
    "val_check_interval": 500,
    "check_val_every_n_epoch": None,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
    "enable_model_summary": False,
}
# Callbacks that have a key of their own: class, and arguments unless the config says otherwise (None: left out).
SECTIONS: dict[str, tuple[str, Config | None]] = {
    "ema": ("seqmix.training.callbacks.EMAWeights", None),
    "lawa": ("seqmix.training.callbacks.LAWAWeights", None),
    "curriculum": ("seqmix.training.callbacks.LengthCurriculum", None),
    "gate_entropy": ("seqmix.training.callbacks.GateEntropyPenalty", None),
    "volume_restart": ("seqmix.training.callbacks.VolumeRestart", None),
    "stop_when_solved": ("seqmix.training.callbacks.StopWhenSolved", None),
    "certify": ("seqmix.training.callbacks.Certify", None),
    "spectrum": ("seqmix.training.callbacks.SpectrumRecorder", None),
    "non_finite": ("seqmix.training.callbacks.NonFiniteGuard", {}),
    "progress": ("seqmix.training.callbacks.StepProgress", {}),
    "accuracy_table": ("seqmix.training.callbacks.AccuracyTable", {}),
    "predictions": ("seqmix.training.callbacks.PredictionFiles", {}),
    "checkpoints": ("seqmix.training.callbacks.Checkpoints", {}),
}
_ENTRIES = (*MODEL_ENTRIES, "data")


def list_configs() -> dict[str, str]:
    """Shipped configs: name and first comment line."""
    return shipped(FOLDER)


def shipped(folder: Path) -> dict[str, str]:
    """The YAML files of a folder: name and first comment line."""
    paths = sorted(folder.glob("*.yaml"), key=lambda path: path.stem)
    return {path.stem: path.read_text("utf-8").partition("\n")[0].lstrip("# ") for path in paths}


def find_config(name: str) -> Path:
    """The file of a config given by path, by the folder of a run or by the name of a shipped one.

    An unknown name is a `ValueError` with the nearest ones.
    """
    path = Path(name)
    if (path / "config.yaml").is_file():  # of a run
        return path / "config.yaml"
    if path.suffix in (".yaml", ".yml", ".json"):
        if path.is_file():
            return path
        name = path.stem
    shipped = FOLDER / f"{name}.yaml"
    if path.name in (name, shipped.name) and shipped.is_file():
        return shipped
    if not name:
        raise ValueError("config: expected a name (seqmix list configs) or a file, got ''")
    raise unknown_name("config", str(path), list_configs())


def load_config(name: str, seen: tuple[Path, ...] = (), *, within: Path | None = None) -> Config:
    """A config with its bases merged; sections and entries are as written, see `expand`.

    Of somebody else's, files must lie in the folder `within`, links included, or be shipped ones.
    """
    path = find_config(name)
    if within is not None and path.parent != FOLDER:
        inside(within, os.path.relpath(path, within), f"config {path.name}")
    if path in seen:
        raise ValueError(f"config {path.name}: base leads back to itself ({' -> '.join(p.stem for p in seen)})")
    try:
        config = parse_value(read_text(path))
    except ValueError as error:
        raise ValueError(f"config {path}: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"config {path}: expected keys and values, got a {type(config).__name__}")
    base = config.pop("base", None)
    config = canonical(config)
    if base is None:
        return config
    beside = path.parent / f"{base}.yaml"
    return merge(load_config(str(beside if beside.is_file() else base), (*seen, path), within=within), config)


def merge(config: Config, changes: Config, entries: Sequence[str] = _ENTRIES) -> Config:
    """`config` with `changes` on top; both as `load_config` returns them, whose registry entries are `entries`."""
    result = dict(config)
    for key, value in changes.items():
        old = result.get(key)
        if key in entries:
            result[key] = merge_entry(old, value)
        elif isinstance(old, dict) and isinstance(value, dict):
            result[key] = merge(old, value, ())  # in a section such a word is a word
        else:
            result[key] = value
    return result


def merge_entry(old: Any, new: Any) -> Any:
    """A registry entry (a name, `{name: ..., arguments}`, or a list of those) changed by another."""
    if isinstance(new, str):
        new = {"name": new}
    if isinstance(old, str):
        old = {"name": old}
    if not isinstance(old, dict) or not isinstance(new, Mapping):
        return new
    if new.get("name", old.get("name")) != old.get("name"):
        return dict(new)
    return {**old, **new}


def set_by_path(config: Config, path: str, value: Any) -> Config:
    """`config` with one command-line option: `mixer.block_size`, `model.mixer`, `curriculum.start`, `data.group`."""
    nested: Any = value
    for key in reversed(path.split(".")):
        nested = {key: nested}
    return merge(config, canonical(nested))


def expand(config: Config, *, seed: int = 0) -> Config:
    """The config in Lightning's own form: entries under `model`, the task as a class, sections as callbacks."""
    config = dict(config)
    model = dict(config.get("model") or {})
    model.update({kind: config.pop(kind) for kind in MODEL_ENTRIES if kind in config})
    if model:
        config["model"] = model
    data = config.get("data")
    if isinstance(data, dict) and "name" in data:
        arguments = {key: value for key, value in data.items() if key != "name"}
        arguments.setdefault("seed", config.get("seed_everything", seed))
        config["data"] = {"class_path": get_task(str(data["name"])).class_path, "init_args": arguments}
    trainer = dict(config.get("trainer") or {})
    callbacks = list(trainer.get("callbacks") or [])
    for section, (class_path, default) in SECTIONS.items():
        arguments = config.pop(section, default)
        if arguments is not None and arguments is not False:
            if not isinstance(arguments, dict | bool):
                raise ValueError(f"{section}: expected arguments or null, got {arguments!r}")
            entry = {"class_path": class_path}
            callbacks.append(entry | ({"init_args": arguments} if isinstance(arguments, dict) and arguments else {}))
    config["trainer"] = trainer | {"callbacks": callbacks}
    return config


def canonical(config: Config) -> Config:
    """Short and long spellings are one: entries at the top, tasks by name, callbacks with a section in it."""
    config = dict(config)
    model = config.get("model")
    if isinstance(model, dict):
        for kind in MODEL_ENTRIES:
            if kind in model:
                config[kind] = merge_entry(model[kind], config[kind]) if kind in config else model[kind]
        config["model"] = {key: value for key, value in model.items() if key not in MODEL_ENTRIES}
    data = config.get("data")
    if isinstance(data, str):
        config["data"] = {"name": data}
    elif isinstance(data, dict) and "class_path" in data:
        names = task_names()
        if str(data["class_path"]) in names:
            config["data"] = {"name": names[str(data["class_path"])], **(data.get("init_args") or {})}
    trainer = config.get("trainer")
    if isinstance(trainer, dict) and isinstance(trainer.get("callbacks"), list):
        sections = {class_path: section for section, (class_path, _) in SECTIONS.items()}
        kept = []
        for callback in trainer["callbacks"]:
            section = sections.get(str(callback.get("class_path"))) if isinstance(callback, dict) else None
            if section is None:
                kept.append(callback)
            else:
                config.setdefault(section, callback.get("init_args") or {})
        config["trainer"] = {**trainer, "callbacks": kept}
    return config


def parse_value(text: str) -> Any:
    """YAML, with numbers like 1e-3 as numbers; a `ValueError` for text that is none."""
    return deepcopy(_parsed(text))


@lru_cache(maxsize=1024)
def _parsed(text: str) -> Any:
    # A sweep plans thousands of runs from few texts, and YAML is slow.
    return parse_yaml(text)
