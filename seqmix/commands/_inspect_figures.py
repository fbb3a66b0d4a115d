"""The figures of `seqmix inspect`, of what its words have said."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqmix._figures import encode, style
from seqmix._files import write_bytes_whole, write_text_whole, write_whole
from seqmix.commands._targets import Options, Target, find_target, layer_name, token_names
from seqmix.inspect import figures
from seqmix.inspect.gradients import gradient_norms
from seqmix.inspect.mixing import mixing_matrix
from seqmix.inspect.spectra import spectrum
from seqmix.models import SequenceModel

__all__ = ["draw"]

_MOST_PANELS = 16

Arrays = dict[str, Any]


def draw(kind: str, arguments: argparse.Namespace, changes: tuple[tuple[str, Any], ...]) -> None:
    """Draw one of the kinds into `arguments.out`, and write its numbers where that is asked for."""
    trust = tuple(arguments.trust)
    options = Options(arguments.sequences, arguments.length, arguments.d_model, arguments.seed, changes, trust)
    targets = [find_target(what, options) for what in arguments.what]
    with style("seqmix inspect", extra="train", settings=figures.STYLE):
        figure, arrays = _DRAWN[kind](targets, arguments)
        data = encode(figure, arguments.out.suffix[1:])
    write_bytes_whole(arguments.out, data)
    print(f"figure: {arguments.out}")
    if arguments.data is not None:
        _write(arguments.data, arrays)
        print(f"data: {arguments.data}")


def _layers(target: Target, found: dict[str, Any], layer: int | None) -> dict[str, Any]:
    """What was found, by the title of its panel."""
    names = list(found)
    if layer is not None:
        names = [name for name in names if name == f"layer {layer}" or name.startswith(f"layer {layer} ")]
        if list(found) == [""] and layer == 0:
            names = [""]
        if not names:
            raise ValueError(f"--layer: expected one of the {len(found)} layers of {target.name}, got {layer}")
    return {", ".join(part for part in (target.name, name) if part): found[name] for name in names}


def _checked(panels: list[Any]) -> list[Any]:
    if len(panels) > _MOST_PANELS:
        raise ValueError(f"--layer: expected one of the layers, all have {len(panels)} panels, above {_MOST_PANELS}")
    return panels


def _spectrum(targets: list[Target], arguments: argparse.Namespace) -> tuple[Any, Arrays]:
    if arguments.over_training:
        return _over_training(targets[0], arguments)
    panels, arrays = [], Arrays()
    for target in targets:
        found = {name: v for name, v in target.observe(spectrum).items() if v is not None}
        if not found:
            raise ValueError(f"spectrum: {target.name} has no layer whose transitions have eigenvalues")
        for title, values in _layers(target, found, arguments.layer).items():
            kind = target.inputs if target.tokens else torch.arange(values.shape[1]).expand(values.shape[:2])
            panels.append(figures.points_of(title, values, kind, target.tokens))
            arrays |= {title: values.numpy(), f"{title}, tokens": kind.numpy()}
    return figures.draw_spectra(_checked(panels)), arrays


def _over_training(target: Target, arguments: argparse.Namespace) -> tuple[Any, Arrays]:
    records = target.over_training()
    layers = {layer_name(name) if len(records[0].layers) > 1 else "": name for name in records[0].layers}
    if arguments.layer is None and len(layers) > 1:
        raise ValueError(f"--layer: expected one of {', '.join(layers)}, got none")
    ((title, layer),) = _layers(target, layers, arguments.layer).items()
    arrays: Arrays = {"steps": np.array([r.step for r in records]), "tokens": records[0].tokens}
    arrays["eigenvalues"] = np.stack([record.layers[layer] for record in records])
    names = token_names(records[0].tokens, target.task)
    return figures.draw_over_training(title, layer, records, names), arrays


def _mixing(targets: list[Target], arguments: argparse.Namespace) -> tuple[Any, Arrays]:
    panels, arrays = [], Arrays()
    words: list[list[str]] = []
    for target in targets:
        chosen = slice(arguments.sequence, arguments.sequence + 1)
        if arguments.sequence >= len(target.inputs):
            raise ValueError(f"--sequence: expected one of {len(target.inputs)}, got {arguments.sequence}")
        with torch.no_grad():
            found = target.observe(lambda layer, x: mixing_matrix(layer, x[chosen])[0].numpy())  # noqa: B023
        for title, matrix in _layers(target, found, arguments.layer).items():
            arrays[title] = matrix
            for head in arguments.heads or range(min(4, len(matrix))):
                if not 0 <= head < len(matrix):
                    raise ValueError(f"--heads: expected numbers below {len(matrix)} for {title}, got {head}")
                label = f"{title}, head {head}" if len(matrix) > 1 else title
                panels.append((label, matrix[head]))
        tokens = target.inputs[arguments.sequence].tolist() if target.tokens else []
        words.append([target.tokens[token] for token in tokens])
    ticks = words[0] if words[0] and all(each == words[0] for each in words) else None
    return figures.draw_mixing(_checked(panels), ticks), arrays


def _gradient(targets: list[Target], arguments: argparse.Namespace) -> tuple[Any, Arrays]:
    arrays: Arrays = {}
    for target in targets:
        if isinstance(target.module, SequenceModel) and arguments.layer is not None:
            seen = target.observe(lambda layer, x: (layer, x))
            for title, (layer, x) in _layers(target, seen, arguments.layer).items():
                arrays[title] = gradient_norms(layer, x).numpy()
        else:
            ((title, module),) = _layers(target, {"": target.module}, arguments.layer).items()
            arrays[title] = gradient_norms(module, target.inputs).numpy()
    return figures.draw_gradients(list(arrays.items())), arrays


_DRAWN = {"spectrum": _spectrum, "mixing": _mixing, "gradient": _gradient}


def _write(path: Path, arrays: Arrays) -> None:
    """Arrays by name; complex numbers are pairs in JSON."""
    if path.suffix == ".npz":

        def save(part: Path) -> None:
            with part.open("wb") as file:
                np.savez_compressed(file, **arrays)

        write_whole(path, save)
        return

    def plain(values: Any) -> Any:
        pairs = np.stack([values.real, values.imag], axis=-1) if np.iscomplexobj(values) else values
        return pairs.tolist()

    write_text_whole(path, json.dumps({name: plain(values) for name, values in arrays.items()}) + "\n")
