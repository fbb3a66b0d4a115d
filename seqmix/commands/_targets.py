"""What `seqmix inspect` looks at: a checkpoint, a config's model or a mixer, and sequences for it to work on."""

import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from seqmix._suggest import unknown_name
from seqmix.inspect.records import SpectrumRecord, read_spectra
from seqmix.inspect.spectra import observe
from seqmix.mixers import create_mixer, list_mixers
from seqmix.mixers.base import TokenMixer
from seqmix.models import SequenceModel

__all__ = ["Options", "Target", "find_target", "token_names"]

T = TypeVar("T")
_LONGEST = 1 << 12  # tokens of a sequence, however long those of a task are, unless somebody asks for more


@dataclass(frozen=True)
class Options:
    """How inputs are made, and what is changed in a config or a mixer that is not trained."""

    sequences: int = 4
    length: int | None = None  # the task's own, at most 4,096; 64 without a task
    d_model: int = 64  # of a mixer
    seed: int = 0  # of untrained weights and random inputs
    changes: tuple[tuple[str, Any], ...] = ()  # ("mixer.block_size", 5)
    trust: tuple[str, ...] = ()  # modules that a checkpoint or a config may name


@dataclass(frozen=True, eq=False)
class Target:
    """A module with inputs: tokens (B, T) for a model, x (B, T, d_model) for a mixer."""

    name: str
    module: SequenceModel | TokenMixer
    inputs: Tensor
    tokens: dict[int, str]  # names of the tokens in `inputs`; empty for a mixer
    run: Path | None = None
    task: Any = None

    def observe(self, look: Callable[[TokenMixer, Tensor], T]) -> dict[str, T]:
        """`look` at every mixer at work, by layer: `""` for the only one."""
        if isinstance(self.module, TokenMixer):
            return {"": look(self.module, self.inputs)}
        found = observe(self.module, look, self.inputs)
        if len(found) == 1:
            return {"": next(iter(found.values()))}
        return {layer_name(name): value for name, value in found.items()}

    def over_training(self) -> list[SpectrumRecord]:
        """The eigenvalues that were recorded in the run; `ValueError` where there are none."""
        if self.run is None:
            raise ValueError(f"--over-training: expected the folder of a run, got {self.name}")
        return read_spectra(self.run / "spectra")


def layer_name(name: str) -> str:
    """`layer 1` for `blocks.1.mixer`, and what stands behind it."""
    parts = name.removeprefix("model.").split(".")
    if parts[:1] == ["blocks"] and parts[2:3] == ["mixer"]:
        return " ".join([f"layer {parts[1]}", *parts[3:]])
    return name


def find_target(what: str, options: Options) -> Target:
    """The target that a word on the command line means.

    A file is a checkpoint and a folder a run, whose last checkpoint is taken; a name is that of a mixer (also as
    `module:Class`), or of a config: its newest run is taken, or, where there is none or something is to be changed, its
    model with new weights, which is said. The file of a config always has new weights.

    Raises:
        ValueError: nothing of that name, changes to a trained model, or sequences that are not to be had.
    """
    path = Path(what)
    if path.is_file() and path.suffix not in (".yaml", ".yml", ".json"):
        return _trained(what, path, options)
    from seqmix.training.config.runs import ROOT, find_checkpoint, newest_run

    if path.is_dir():
        return _trained(what, find_checkpoint("last", None, what), options)
    if what in list_mixers() or ":" in what:
        return _mixer(what, options)
    from seqmix.training.config.files import find_config, list_configs

    try:
        find_config(what)
    except ValueError:
        if len(path.parts) > 1:
            raise ValueError(f"inspect: expected a checkpoint or a run's folder, got {what!r}") from None
        raise unknown_name("checkpoint, run, mixer or config", what, [*list_mixers(), *list_configs()]) from None
    run = None if options.changes else newest_run(what)
    if run is not None:
        return _trained(str(run), find_checkpoint("last", None, str(run)), options)
    if not options.changes:
        print(f"seqmix inspect: {what} has no run under {ROOT}/: these are new weights", file=sys.stderr)
    return _config(what, options)


def _trained(name: str, path: Path, options: Options) -> Target:
    from seqmix.training.config.runs import run_of
    from seqmix.training.loading import load_model, task_of

    if options.changes:
        raise ValueError(f"--{options.changes[0][0]}: expected an untrained model to change, got {name}")
    model, task = load_model(path, trust=options.trust), task_of(path, trust=options.trust)
    return Target(name, model, *_words(model, task, options), run=run_of(path), task=task)


def _mixer(name: str, options: Options) -> Target:
    arguments = {}
    for key, value in options.changes:
        owner, _, argument = key.partition(".")
        if owner != "mixer" or not argument:
            raise unknown_name(f"option for the mixer {name!r}:", f"--{key}", ["--mixer.ARGUMENT"])
        arguments[argument] = value
    torch.manual_seed(options.seed)
    layer = create_mixer(name, options.d_model, **arguments).eval()
    x = torch.randn(options.sequences, options.length or 64, options.d_model)
    return Target(name, layer, x, {})


def _config(name: str, options: Options) -> Target:
    from seqmix.training.config.files import load_config, set_by_path
    from seqmix.training.loading import build_model, build_task, check_config

    config = load_config(name)
    check_config(config, options.trust)
    for key, value in options.changes:
        config = set_by_path(config, key, value)
    torch.manual_seed(options.seed)
    model = build_model(config, trust=None).eval()
    task = build_task(config, trust=None) if "data" in config else None
    return Target(f"{Path(name).stem} (untrained)", model, *_words(model, task, options), task=task)


def _words(model: SequenceModel, task: Any, options: Options) -> tuple[Tensor, dict[int, str]]:
    """Tokens (B, T) of the task's evaluation data, or random ones, with their names."""
    if task is None:
        generator = torch.Generator().manual_seed(options.seed)
        tokens = torch.randint(model.vocab_size, (options.sequences, options.length or 64), generator=generator)
        return tokens, token_names(tokens, None)
    sets = zip([*task.validation_sets, *task.test_sets], [*task.val_dataloader(), *task.test_dataloader()], strict=True)
    longest = 0
    for _, loader in sorted(sets, key=lambda pair: pair[0].length):
        batch = next(iter(loader))
        tokens = batch["tokens"]
        if "cu_seqlens" in batch:
            tokens = tokens[:, : int(batch["cu_seqlens"][1])]
        longest = max(longest, tokens.shape[1])
        if tokens.shape[1] >= (options.length or 1):
            tokens = tokens[: options.sequences, : options.length or _LONGEST]
            return tokens, token_names(tokens, task)
    raise ValueError(f"--length: expected at most {longest}, the longest sequences of the task, got {options.length}")


def token_names(tokens: Any, task: Any) -> dict[int, str]:
    """Names of the tokens that occur, by number: elements of a group as cycles, BOS, else the numbers."""
    present = sorted({int(token) for token in torch.as_tensor(tokens).unique()})
    examples = getattr(task, "examples", None)
    group = getattr(examples, "group", None)
    if group is None:
        return {token: str(token) for token in present}
    return {token: _element(group, token) if token < group.order else "BOS" for token in present}


def _element(group: Any, number: int) -> str:
    """(1 2 3) for an element that is a permutation, else its number."""
    if group.permutations is None or group.name.startswith("Z"):
        return str(number)
    image, seen, cycles = group.permutations[number].tolist(), set[int](), ""
    for start in range(len(image)):
        cycle, point = [], start
        while point not in seen:
            seen.add(point)
            cycle.append(str(point + 1))
            point = image[point]
        if len(cycle) > 1:
            cycles += f"({' '.join(cycle)})"
    return cycles or "e"
