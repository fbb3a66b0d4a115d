"""What each part of a config takes, read from the sources of its classes: neither torch nor Lightning is imported."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from seqmix._constructors import Argument, Constructor, read_constructor
from seqmix._suggest import unknown_name
from seqmix.mixers.registry import get_mixer
from seqmix.optim.registry import BASE, SPLIT, get_optimizer
from seqmix.optim.schedules import SCHEDULES
from seqmix.tasks.loading import MEANING, Loading, merge
from seqmix.tasks.registry import get_task
from seqmix.training.config.files import MODEL_ENTRIES, OBJECTIVES, SECTIONS, Config

__all__ = [
    "OF_MODEL",
    "Part",
    "data_part",
    "mixer_part",
    "objective_part",
    "optimizer_part",
    "parts_of",
    "schedule_part",
    "section_part",
]

# What a mixer has from the model around it.
OF_MODEL = ("d_model", "device", "dtype")
_MODULES = {"trainer": "lightning.pytorch.trainer.trainer:Trainer", "model": "seqmix.training.module:SequenceLearner"}


@dataclass(frozen=True)
class Part:
    """One constructor that a config calls.

    Attributes:
        path: of its arguments on the command line, `mixer` for `--mixer.block_size`.
        owner: what it is called in messages.
        target: `"module:Class"`.
        arguments: that it takes; None where its source does not say.
        also: names that it takes beside these.
    """

    path: str
    owner: str
    target: str
    found: Constructor
    arguments: tuple[Argument, ...] | None
    also: tuple[str, ...] = ()


def mixer_part(name: str) -> Part:
    """A registered mixer, or `module:Class`."""
    target = name if ":" in name else get_mixer(name).path
    found = _read(target)
    arguments = tuple(each for each in found.arguments if each.name not in OF_MODEL)
    open_ended = found.rest is not None or not any(each.name == "d_model" for each in found.arguments)
    return Part("mixer", f"mixer {name!r}", target, found, None if open_ended else arguments, ("device", "dtype"))


def data_part(name: str) -> Part:
    """A registered task, with what all tasks take."""
    target = get_task(name).path
    found = _read(target)
    arguments: tuple[Argument, ...] | None = found.arguments
    if found.rest is not None and "Loading" not in found.rest:
        arguments = None
    elif "Loading" in (found.rest or ""):
        taken = {each.name for each in found.arguments} | set(found.attribute("withheld") or ())
        values: dict[str, Any] = {**merge(Loading(), found.attribute("loading") or Loading())}
        kinds = Loading.__annotations__
        arguments = found.arguments + tuple(
            Argument(key, repr(values[key]) if key in values else None, inspect.formatannotation(kinds[key]), meaning)
            for key, meaning in MEANING.items()
            if key not in taken
        )
    return Part("data", f"task {name!r}", target, found, arguments)


def optimizer_part(name: str) -> Part:
    """A registered optimizer that some library has."""
    entry = get_optimizer(name)
    target = _target(entry.constructor)
    found = _read(target)
    also = {"matrices": SPLIT, "optimizer": BASE}.get(entry.takes, ())
    # Some constructors are made when they are imported.
    arguments = found.arguments[1:] if found.rest is None and found.arguments else None
    return Part("optimizer", f"optimizer {name!r}", target, found, arguments, also)


def schedule_part(name: str) -> Part:
    """A schedule of the learning rate."""
    if name not in SCHEDULES:
        raise unknown_name("schedule", name, SCHEDULES)
    target = f"seqmix.optim.schedules:{name}"
    found = _read(target)
    return Part("schedule", f"schedule {name!r}", target, found, found.arguments[1:])


def objective_part(name: str) -> Part:
    """What a model is trained for."""
    if name not in OBJECTIVES:
        raise unknown_name("objective", name, OBJECTIVES)
    found = _read(OBJECTIVES[name])
    arguments = tuple(each for each in found.arguments if each.name != "vocab_size")  # the task's
    return Part("objective", f"objective {name!r}", OBJECTIVES[name], found, arguments)


def section_part(key: str) -> Part:
    """The trainer, the model, or a callback with a key of its own."""
    target = _MODULES.get(key) or ":".join(SECTIONS[key][0].rpartition(".")[::2])
    found = _read(target)
    arguments = tuple(each for each in found.arguments if key != "model" or each.name not in MODEL_ENTRIES)
    return Part(key, key, target, found, arguments)


def parts_of(config: Config) -> list[tuple[Part, Mapping[str, Any]]]:
    """The parts that a config names, each with the arguments that it gives; unknown names are `ValueError`s."""
    found: list[tuple[Part, Mapping[str, Any]]] = [
        (section_part(key), config[key])
        for key in (*_MODULES, *SECTIONS)
        if isinstance(config.get(key), dict)  # else it is left out, or told where it is used
    ]
    mixer = config.get("mixer")
    specs = [("mixer", spec) for spec in (mixer if isinstance(mixer, list) else [mixer])]
    for kind, spec in (*specs, *((kind, config.get(kind)) for kind in (*MODEL_ENTRIES[1:], "data"))):
        spec = {"name": spec} if isinstance(spec, str) else spec
        if not isinstance(spec, dict) or not isinstance(spec.get("name"), str):
            continue
        name, given = spec["name"], {key: value for key, value in spec.items() if key != "name"}
        if ":" in name or (kind == "optimizer" and get_optimizer(name).library == "none"):
            continue  # told by what imports it, or says why it cannot be made
        found.append((_PARTS[kind](name), given))
    return found


_PARTS = {
    "mixer": mixer_part,
    "optimizer": optimizer_part,
    "schedule": schedule_part,
    "objective": objective_part,
    "data": data_part,
}


def _target(what: Any) -> str:
    return what if isinstance(what, str) else f"{what.__module__}:{what.__qualname__}"


def _read(target: str) -> Constructor:
    """What a target takes; nothing is known of one without a source, as of a notebook."""
    try:
        return read_constructor(target)
    except (ValueError, SyntaxError):
        return Constructor("", (), "")
