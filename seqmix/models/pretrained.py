"""A model in a folder: `model.safetensors` and `config.json`, which holds the constructor's arguments."""

import inspect
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor, nn

from seqmix._bounded import read_json
from seqmix._files import write_together
from seqmix.models._specs import check_mixers
from seqmix.models._weights import check_weights
from seqmix.models.shipped import is_shipped, shipped_folder

__all__ = ["from_pretrained", "save_pretrained"]

_CONFIG, _WEIGHTS, _TYPE = "config.json", "model.safetensors", "seqmix"
_HEADER = 1 << 24  # bytes: a hundred for each of a hundred thousand tensors
M = TypeVar("M", bound=nn.Module)


class Model(Protocol):
    """What is written of a `SequenceModel`."""

    config: dict[str, Any]

    def state_dict(self) -> dict[str, Tensor]: ...


def save_pretrained(model: Model, folder: str | os.PathLike[str]) -> None:
    """Write the model to `folder`, which is made if needed; a model that stood there stays until this one is whole.

    Raises:
        ValueError: a mixer that was given as a function, or with arguments that JSON cannot hold.
        ImportError: safetensors is not installed.
    """
    owner = "SequenceModel.save_pretrained"
    save_file = _safetensors(owner).save_file
    for spec in model.config["mixer"]:
        if not isinstance(spec, dict):
            raise ValueError(
                f"{owner}: mixer must be given by name to be written, got {spec!r}; make it known with register_mixer"
            )
    # By these transformers finds the class, once `seqmix.hf` is imported.
    kind = "ForSequenceClassification" if model.config["head"]["name"] == "classification" else "ForCausalLM"
    named = {"model_type": _TYPE, "architectures": [f"Seqmix{kind}"]}
    try:
        text = json.dumps(named | model.config, indent=2) + "\n"
    except TypeError as error:
        raise ValueError(f"{owner}: mixer has arguments that JSON cannot hold: {error}") from None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().contiguous() for name, tensor in model.state_dict().items()}
    write_together(
        {
            folder / _WEIGHTS: lambda path: save_file(tensors, path, {"format": "pt"}),
            folder / _CONFIG: lambda path: path.write_text(text),
        }
    )


def from_pretrained(
    cls: type[M], folder: str | os.PathLike[str], *, device: torch.device | str | None = None, trust: Iterable[str] = ()
) -> M:
    """The model that `save_pretrained` wrote, in the types it had; torch's random state is left alone.

    `"seqmix:a5"` is one of those that come with seqmix (`seqmix list models`).

    A layer named as `module:Class` runs code of that module, so it is imported only if `trust` has it: `["my_layers"]`.

    Raises:
        FileNotFoundError: there is no model in `folder`.
        ValueError: the configuration does not describe a model, or not the one whose weights stand beside it, or it
            names a module that is not trusted.
        ImportError: safetensors is not installed.
    """
    owner = "SequenceModel.from_pretrained"
    folder = shipped_folder(folder) if is_shipped(folder) else Path(folder)  # type: ignore[arg-type]
    load_file = _safetensors(owner).load_file
    for name in (_CONFIG, _WEIGHTS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{owner}: no {name} in {folder}")
    try:
        config = read_json(folder / _CONFIG)
        if not isinstance(config, dict):
            raise ValueError(f"expected an object, got {config!r:.80}")
        config = _ours(cls, config)
        check_mixers(config.get("mixer"), trust, "mixer")
        # Its weights are in the file: more numbers than that has bytes are none of a model.
        check_weights(cls, (folder / _WEIGHTS).stat().st_size, **config)
        with torch.random.fork_rng(devices=[]):
            model = cls(**config)
    except ImportError:
        raise
    except ValueError as error:
        raise ValueError(f"{owner}: {folder / _CONFIG} does not describe a model: {error}") from error
    except Exception as error:  # whatever stands there may be of any kind
        raise ValueError(
            f"{owner}: {folder / _CONFIG} does not describe a model: {type(error).__name__}: {error}"
        ) from error
    held = _tensors(folder / _WEIGHTS, load_file, owner)
    tensors = {name.removeprefix("model."): tensor for name, tensor in held.items()}
    problems = _differences(model.state_dict(), tensors)
    if problems:
        raise ValueError(f"{owner}: {_CONFIG} and {_WEIGHTS} in {folder} disagree: {'; '.join(problems)}")
    model.load_state_dict(tensors, assign=True)
    return model if device is None else model.to(device)


def _ours(cls: type, config: dict[str, Any]) -> dict[str, Any]:
    """The constructor's arguments in a config.json, where transformers writes many of its own beside them."""
    if "transformers_version" not in config:
        return {name: value for name, value in config.items() if name not in ("model_type", "architectures")}
    known = inspect.signature(cls).parameters.keys() - {"device", "dtype"}
    own = {name: value for name, value in config.items() if name in known}
    return own | {"tie_embeddings": config.get("tie_word_embeddings", False)}


def _tensors(path: Path, load_file: Callable[[Path], dict[str, Tensor]], owner: str) -> dict[str, Tensor]:
    """The tensors of a file; `ValueError` for one that is damaged, or is little else than a header."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
    if length > _HEADER:
        raise ValueError(f"{owner}: {path}: expected a header of at most {_HEADER} bytes, got {length}")
    try:
        return load_file(path)
    except Exception as error:  # of Rust, and not of any kind that Python has
        raise ValueError(f"{owner}: {path} is damaged, or no file of safetensors: {error}") from None


def _differences(expected: dict[str, Tensor], found: dict[str, Tensor]) -> list[str]:
    problems = [f"missing {name}" for name in sorted(expected.keys() - found.keys())]
    problems += [f"unexpected {name}" for name in sorted(found.keys() - expected.keys())]
    for name in sorted(expected.keys() & found.keys()):
        if expected[name].shape != found[name].shape:
            problems.append(f"{name} is {tuple(found[name].shape)}, expected {tuple(expected[name].shape)}")
    return problems


def _safetensors(owner: str) -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise ImportError(f"{owner} needs safetensors: pip install 'seqmix[train]'") from None
    return safetensors.torch
