"""Models and tasks from what is on disk: a config, a checkpoint, the run that a checkpoint lies in.

All of it may be somebody else's: `trust` names the modules beyond seqmix that may be imported for it; None says that it
is the user's own, see `seqmix._trust`.
"""

import inspect
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from seqmix._checks import built
from seqmix._trust import load_class
from seqmix.models import SequenceModel
from seqmix.models._specs import check_mixers
from seqmix.models._weights import check_weights, numbers_of
from seqmix.tasks.registry import create_task, get_task, task_names
from seqmix.training.checkpoint_files import read_checkpoint
from seqmix.training.config.files import Config, expand, load_config
from seqmix.training.config.runs import run_of
from seqmix.training.module import SequenceLearner
from seqmix.training.objectives import create_objective

__all__ = ["build_model", "build_task", "check_config", "load_model", "task_class", "task_of"]


def load_model(
    checkpoint: Path | dict[str, Any], *, device: torch.device | str = "cpu", trust: Iterable[str] | None = ()
) -> SequenceModel:
    """The model of a checkpoint, given by its file or by what `read_checkpoint` has read of it, in eval mode.

    `ValueError` for weights that are not those of the model that the hyper-parameters ask for, or ask for none.
    """
    content = read_checkpoint(checkpoint) if isinstance(checkpoint, Path) else checkpoint
    check_mixers(content["hyper_parameters"].get("mixer"), trust, "checkpoint: its mixer")
    model = built("checkpoint: its weights and hyper-parameters are of no one model", _model, {}, content)
    return model.to(device).eval()


def _model(content: dict[str, Any]) -> SequenceModel:
    model, learner = (inspect.signature(kind).parameters for kind in (SequenceModel, SequenceLearner))
    arguments = {name: value for name, value in content["hyper_parameters"].items() if name in learner}
    own = {name: value for name, value in arguments.items() if name in model}
    own["vocab_size"] = create_objective(arguments.get("objective", "targets"), own["vocab_size"]).vocab_size
    check_weights(SequenceModel, numbers_of(content["state_dict"]), **own)
    made = SequenceLearner(**arguments).model
    made.load_state_dict({name.removeprefix("model."): value for name, value in content["state_dict"].items()})
    return made


def build_model(config: Config, *, trust: Iterable[str] | None = ()) -> SequenceModel:
    """The model that a config asks for, with new weights; by default one layer of width 128.

    Its vocabulary is that of the task, where there is one and nothing else is said, and else 256.
    """
    known = inspect.signature(SequenceModel).parameters
    model = expand(config).get("model", {})
    check_mixers(model.get("mixer"), trust, "config: mixer")
    arguments: dict[str, Any] = {key: value for key, value in model.items() if key in known}
    if "vocab_size" not in arguments:
        arguments["vocab_size"] = build_task(config, trust=trust).vocab_size if "data" in config else 256
    objective = create_objective(model.get("objective", "targets"), arguments["vocab_size"])
    arguments = {"d_model": 128, "n_layers": 1} | arguments | {"vocab_size": objective.vocab_size}
    built("model: cannot be built", check_weights, arguments, SequenceModel)
    return built("model: cannot be built", SequenceModel, arguments)


def check_config(config: Config, trust: Iterable[str] | None = ()) -> None:
    """`ValueError` for a model or a task that a config must not name; for one that the user's own options change."""
    config = expand(config)
    check_mixers((config.get("model") or {}).get("mixer"), trust, "config: mixer")
    if "data" in config:
        task_class(config["data"].get("class_path"), trust)


def build_task(config: Config, *, trust: Iterable[str] | None = ()) -> Any:
    """The task that a config asks for, as `load_config` reads it; `ValueError` where it asks for none."""
    data = expand(config).get("data")
    if not isinstance(data, dict):
        raise ValueError("data: expected a config with a task, got none")
    return built("data: no task can be built", task_class(data.get("class_path"), trust), data.get("init_args") or {})


def task_class(path: Any, trust: Iterable[str] | None = ()) -> Callable[..., Any]:
    """What builds a task, by its class path: a registered one, or one that may be imported."""
    from lightning.pytorch import LightningDataModule

    name = task_names().get(path) if isinstance(path, str) else None
    return load_class(path, LightningDataModule, trust, "data") if name is None else get_task(name).load()


def task_of(checkpoint: Path, *, trust: Iterable[str] | None = ()) -> Any | None:
    """The task of the run that a checkpoint lies in, else the one that it names itself; None where neither is so."""
    run = run_of(checkpoint)
    if run is not None and (run / "config.yaml").is_file():
        return build_task(load_config(str(run / "config.yaml"), within=run), trust=trust)
    content = read_checkpoint(checkpoint)
    names = task_names()
    if content.get("task") not in names:
        return None
    name = names[content["task"]]
    known = get_task(name).parameters()
    arguments = content.get("datamodule_hyper_parameters") or {}
    if not isinstance(arguments, dict):
        raise ValueError(
            f"checkpoint: {checkpoint} does not say properly what it was trained on, got {arguments!r:.80}"
        )
    arguments = {key: value for key, value in arguments.items() if key in known}
    return built("checkpoint: its task cannot be built", create_task, arguments, name)
