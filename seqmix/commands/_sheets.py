"""One thing of a list, explained: what it takes, with defaults and meanings, its source, a line that uses it."""

import itertools
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import Any

from seqmix._constructors import Argument
from seqmix.training.config import files as config_files
from seqmix.training.config.arguments import (
    OF_MODEL,
    Part,
    data_part,
    mixer_part,
    objective_part,
    optimizer_part,
    schedule_part,
    section_part,
)

__all__ = [
    "argument_lines",
    "asked_help",
    "callback_sheet",
    "mixer_sheet",
    "objective_sheet",
    "optimizer_sheet",
    "schedule_sheet",
    "task_sheet",
]


def mixer_sheet(name: str) -> str:
    """A registered mixer, or `module:Class`."""
    from seqmix.mixers.registry import get_mixer

    part = mixer_part(name)
    description, source = ("", "") if ":" in name else (get_mixer(name).description, get_mixer(name).source)
    arguments = [each for each in part.found.arguments if each.name not in OF_MODEL]
    line = f"seqmix fit --config parity --mixer {name}{_option('mixer', arguments)}"
    return _page(name, description or part.found.docstring, part, source, arguments, [line])


def task_sheet(name: str) -> str:
    """A registered task, with what all tasks take."""
    from seqmix.tasks.registry import get_task

    entry, part = get_task(name), data_part(name)
    arguments = part.arguments or part.found.arguments
    config = _config_of(name)
    lines = [f"seqmix fit --config {config}"] if config else []
    lines += [f"seqmix fit --data {name} --mixer bd-lru --trainer.max_steps 300{_option('data', arguments)}"]
    return _page(name, entry.description, part, entry.source, arguments, lines)


def optimizer_sheet(name: str) -> str:
    """A registered optimizer; of one that no library has, why it cannot be made."""
    from seqmix.optim.registry import get_optimizer

    entry = get_optimizer(name)
    if entry.library == "none":
        return f"{name}: {entry.line}\n\nIt cannot be made by name: {entry.constructor}"
    part = optimizer_part(name)
    arguments = list(part.found.arguments[1:])
    if not arguments:  # its constructor is made when it is imported
        empty = {name for name, each in entry.arguments().items() if each.default is each.empty}
        arguments = [
            Argument(key, None if key in empty else repr(each.default), None) for key, each in entry.arguments().items()
        ]
    arguments = [
        Argument(each.name, repr(entry.defaults[each.name]), each.annotation, each.meaning)
        if each.name in entry.defaults
        else each
        for each in arguments
    ]
    if entry.takes == "matrices":
        arguments.append(Argument("adamw", "{}", None, "arguments of the AdamW that takes what are no matrices."))
    if entry.takes == "optimizer":
        arguments.append(Argument("base", "'adamw'", None, "the optimizer around which it stands, with its arguments."))
    rate = any(each.name == "lr" for each in arguments) or entry.takes == "optimizer"
    line = f"seqmix fit --config parity --optimizer {name}{' --optimizer.lr 1e-3' if rate else ''}"
    return _page(name, entry.line, part, entry.source, arguments, [line])


def schedule_sheet(name: str) -> str:
    """A schedule of the learning rate."""
    part = schedule_part(name)
    line = f"seqmix fit --config parity --schedule {name} --schedule.warmup 50"
    return _page(name, part.found.docstring, part, "", part.arguments or (), [line])


def objective_sheet(name: str) -> str:
    """What a model is trained for."""
    part = objective_part(name)
    line = f"seqmix fit --config {'gidd' if name == 'gidd' else 'lm'} --objective {name}"
    return _page(name, part.found.docstring, part, "", part.arguments or (), [line])


def callback_sheet(section: str) -> str:
    """A callback with a key of its own in configs."""
    part, default = section_part(section), config_files.SECTIONS[section][1]
    arguments = part.arguments or ()
    lines = [f"seqmix fit --config parity{_option(section, arguments) or f' --{section} {{}}'}"]
    lines += [f"seqmix fit --config parity --{section} null      without it"] if default is not None else []
    return _page(section, part.found.docstring, part, "", arguments, lines)


_ENTRIES = {
    "mixer": mixer_sheet,
    "data": task_sheet,
    "optimizer": optimizer_sheet,
    "schedule": schedule_sheet,
    "objective": objective_sheet,
}
_LISTS = {key: "tasks" if key == "data" else f"{key}s" for key in _ENTRIES}


def asked_help(options: Sequence[str]) -> str | None:
    """What `--mixer.help`, `--data.help`, `--curriculum.help` and so on among the options of `seqmix fit` ask for.

    It is about the entry named behind it, or the one that the options or their config have; without any, it says where
    the names are. None where nothing of the kind is asked.
    """
    words = [word for option in options for word in option.split("=", 1)]
    following = dict(itertools.pairwise([*words, "--"]))
    asked = {f"--{prefix}{key}.help": key for key in (*_ENTRIES, *config_files.SECTIONS) for prefix in ("", "model.")}
    option = next((word for word in words if word in asked), None)
    if option is None:
        return None
    key = asked[option]
    if key in config_files.SECTIONS:
        return callback_sheet(key)
    given: Any = next((following[o] for o in (option, f"--{key}") if not following.get(o, "--").startswith("--")), None)
    if given is None and "--config" in following:
        given = config_files.load_config(following["--config"]).get(key)
    specs = given if isinstance(given, list) else [given]
    names = [spec.get("name") if isinstance(spec, dict) else spec for spec in specs]
    if None in names:
        return f"--{key} NAME takes one of `seqmix list {_LISTS[key]}`; --{key}.help NAME says what that one takes"
    return "\n\n".join(_ENTRIES[key](str(name)) for name in dict.fromkeys(names))


def _option(key: str, arguments: Sequence[Argument]) -> str:
    """The first argument that is a plain number, as an option."""
    for each in arguments:
        if each.default is not None and re.fullmatch(r"\d[\d.]*", each.default):
            return f" --{key}.{each.name} {each.default}"
    return ""


def _config_of(task: str) -> str | None:
    """A shipped config with that task: the one that is called like it, else the first."""
    entry = re.compile(rf"\bname: {re.escape(task)}\b")
    files = sorted(config_files.FOLDER.glob("*.yaml"), key=lambda path: (path.stem != task, len(path.stem)))
    return next((path.stem for path in files if path.stem == task or entry.search(path.read_text("utf-8"))), None)


def _page(name: str, text: str, part: Part, source: str, arguments: Sequence[Argument], examples: list[str]) -> str:
    key = part.path
    module, _, attribute = part.target.partition(":")
    lines = [f"{name}: {' '.join(text.partition(chr(10) * 2)[0].split())}", "", f"made by   {module}.{attribute}"]
    papers = [re.sub(r"^(\d{4}\.\d{4,5})$", r"https://arxiv.org/abs/\1", each) for each in source.split(", ") if each]
    lines += [f"source    {', '.join(papers)}"] if papers else []
    entry = f"name: {name}, " if key in _ENTRIES else ""
    lines += ["", f"arguments, as {key}: {{{entry}ARGUMENT: VALUE}} in a config or --{key}.ARGUMENT VALUE:"]
    lines += argument_lines(arguments)
    return "\n".join([*lines, "", "example:", *(f"  {each}" for each in examples)])


def argument_lines(arguments: Sequence[Argument]) -> list[str]:
    """A line, or several, for each argument: name, default, meaning."""
    lines: list[str] = []
    heads = [f"  {a.name}" + (f" = {a.default}" if a.default is not None else "   (must be given)") for a in arguments]
    indent = min(34, max(map(len, heads), default=0) + 2)
    width = max(60, min(120, shutil.get_terminal_size((110, 20)).columns))
    for head, argument in zip(heads, arguments, strict=True):
        meaning = argument.meaning or (argument.annotation or "")
        body = textwrap.wrap(meaning, width - indent) or [""]
        if len(head) > indent - 2:
            lines.append(head)
            head = ""
        lines += [f"{head:<{indent}}{body[0]}".rstrip(), *(" " * indent + line for line in body[1:])]
    if not arguments:
        lines.append("  none")
    return lines
