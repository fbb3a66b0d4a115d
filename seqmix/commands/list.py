"""`seqmix list`: what there is, by name and with a line each; of one name, all about it."""

import difflib
import fnmatch
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from seqmix._suggest import unknown_name
from seqmix.commands import _sheets
from seqmix.commands._messages import exits

__all__ = ["NAMES", "main"]


def _mixers() -> dict[str, str]:
    from seqmix.mixers.registry import get_mixer, list_mixers

    return {name: get_mixer(name).description for name in list_mixers()}


def _tasks() -> dict[str, str]:
    from seqmix.tasks.registry import get_task, list_tasks

    return {name: get_task(name).description for name in list_tasks()}


def _optimizers() -> dict[str, str]:
    from seqmix.optim.registry import get_optimizer, list_optimizers

    return {name: get_optimizer(name).line for name in list_optimizers()}


def _schedules() -> dict[str, str]:
    from seqmix._constructors import read_constructor
    from seqmix.optim.schedules import SCHEDULES

    return {name: _first(read_constructor(f"seqmix.optim.schedules:{name}").docstring) for name in SCHEDULES}


def _objectives() -> dict[str, str]:
    from seqmix._constructors import read_constructor
    from seqmix.training.config.files import OBJECTIVES

    return {name: _first(read_constructor(path).docstring) for name, path in OBJECTIVES.items()}


def _callbacks() -> dict[str, str]:
    from seqmix._constructors import read_constructor
    from seqmix.training.config.files import SECTIONS

    paths = {name: ":".join(class_path.rpartition(".")[::2]) for name, (class_path, _) in SECTIONS.items()}
    return {name: _first(read_constructor(path).docstring) for name, path in paths.items()}


def _models() -> dict[str, str]:
    from seqmix.models.shipped import about_shipped, list_models

    return {name: about_shipped(name)["text"] for name in list_models()}


def _model_sheet(name: str) -> str:
    from seqmix.models.shipped import about_shipped, shipped_folder

    about, config = about_shipped(name), json.loads((shipped_folder(name) / "config.json").read_text())
    return f"""{name}: {about["text"]}

model: {json.dumps({key: config[key] for key in ("mixer", "vocab_size", "d_model", "n_layers")})}
task: {json.dumps(about["task"])}
trained by: {about["command"]}

example:
  SequenceModel.from_pretrained("seqmix:{name}")
  seqmix certify --verify seqmix:{name}"""


def _first(docstring: str) -> str:
    return docstring.partition("\n")[0]


def _files(folder: str) -> Callable[[], dict[str, str]]:
    def names() -> dict[str, str]:
        from seqmix.training.config.files import FOLDER, shipped

        return shipped(FOLDER / folder)

    return names


def _file_sheet(folder: str, *commands: str) -> Callable[[str], str]:
    """A file as it is written, where it lies, and commands that take it."""

    def sheet(name: str) -> str:
        from seqmix.training.config.files import FOLDER

        path = FOLDER / folder / f"{name}.yaml"
        lines = [f"{path}:", "", path.read_text("utf-8").rstrip(), "", "example:"]
        return "\n".join(lines + [f"  {command.format(name)}" for command in commands])

    return sheet


class _Kind(NamedTuple):
    names: Callable[[], dict[str, str]]
    sheet: Callable[[str], str]


_CONFIG = _file_sheet(
    ".", "seqmix fit --config {}", "seqmix fit --config {} --print_config      with its bases and every default"
)
NAMES: dict[str, _Kind] = {
    "mixers": _Kind(_mixers, _sheets.mixer_sheet),
    "tasks": _Kind(_tasks, _sheets.task_sheet),
    "models": _Kind(_models, _model_sheet),
    "configs": _Kind(_files("."), _CONFIG),
    "boards": _Kind(_files("boards"), _file_sheet("boards", "seqmix leaderboard run {} --store runs.jsonl")),
    "grids": _Kind(_files("grids"), _file_sheet("grids", "seqmix leaderboard run {} --store runs.jsonl")),
    "optimizers": _Kind(_optimizers, _sheets.optimizer_sheet),
    "schedules": _Kind(_schedules, _sheets.schedule_sheet),
    "objectives": _Kind(_objectives, _sheets.objective_sheet),
    "callbacks": _Kind(_callbacks, _sheets.callback_sheet),
}

_HELP = f"""usage: seqmix list {{{"|".join(NAMES)}}} [NAME or PATTERN]
       seqmix list optimizers --docs FILE       write their table between the markers of FILE
       seqmix list parameters --help            which optimizer takes each parameter of a model

Names with one line each; of a NAME its arguments, defaults and source; PATTERN is a shell pattern such as 'a5*'.

  seqmix list mixers bd-lru
  seqmix list configs 's3*'"""


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
    if kind not in NAMES:
        raise unknown_name("list", kind, (*NAMES, "parameters"))
    if kind == "optimizers" and patterns[:1] == ["--docs"] and len(patterns) == 2:
        from seqmix.optim.table import write_registry

        write_registry(Path(patterns[1]))
        return 0
    if len(patterns) > 1 or any(each.startswith("-") for each in patterns):
        raise ValueError(f"seqmix list {kind}: expected one name or pattern (in quotes), got {' '.join(patterns)}")
    pattern = patterns[0] if patterns else "*"
    every = NAMES[kind].names()
    if pattern in every or (kind == "mixers" and ":" in pattern):
        print(NAMES[kind].sheet(pattern))
        return 0
    rows = {name: text for name, text in every.items() if fnmatch.fnmatch(name, pattern)}
    if not rows:
        near = difflib.get_close_matches(pattern, every, n=3, cutoff=0.4)
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        print(f"seqmix: none of the {len(every)} {kind} matches {pattern!r}{hint}", file=sys.stderr)
        return 1
    width = max(map(len, rows))
    for name, text in rows.items():
        print(f"{name:<{width}}  {text}")
    return 0
