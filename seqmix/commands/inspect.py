"""`seqmix inspect spectrum|mixing|gradient`: one figure of a checkpoint, a config's model or a mixer."""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from seqmix._figures import encode, style
from seqmix._files import check_output, write_text_whole, write_whole
from seqmix._suggest import unknown_name
from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, add_trust_option
from seqmix.commands._targets import Options, Target, find_target, layer_name, token_names
from seqmix.inspect import figures
from seqmix.inspect.gradients import gradient_norms
from seqmix.inspect.mixing import mixing_matrix
from seqmix.inspect.spectra import spectrum
from seqmix.models import SequenceModel

__all__ = ["main"]

_DESCRIPTION = {
    "spectrum": "Eigenvalues of the transitions of every layer, coloured by token: complex ones in the plane with the "
    "unit circle, real ones on a line for each token. --over-training draws what a run recorded with "
    "`seqmix fit --spectrum.every N`.",
    "mixing": "What each token takes from those before it: the mixing matrix as a heat map, for each head or channel. "
    "Where its entries are blocks, their spectral norm is shown.",
    "gradient": "The norm of d y_T / d x_(T-k) over the lag k: of the logits in the embeddings for a model, of a "
    "layer's output in its input for a mixer or with --layer. Median and range over sequences.",
}
_EXAMPLES = {
    "spectrum": """  seqmix inspect spectrum runs/parity/1 --over-training --out parity.svg
  seqmix inspect spectrum runs/parity-mamba/1 runs/parity-mamba-signed/1 --out signs.svg
  seqmix inspect spectrum lru --mixer.r_min 0.9 --mixer.r_max 0.99 --out ring.png --data ring.npz""",
    "mixing": """  seqmix inspect mixing runs/s3/1/checkpoints/best.ckpt --heads 0 1 2 3 --length 16 --out s3.svg
  seqmix inspect mixing attention --mixer.n_heads 2 --d-model 16 --length 32 --out attention.svg
  seqmix inspect mixing a5 --mixer.block_size 4 --out untrained.svg""",
    "gradient": """  seqmix inspect gradient runs/parity/1 parity --out reach.svg
  seqmix inspect gradient lru attention lstm --length 128 --out layers.svg --data layers.json""",
}
_KINDS = tuple(_DESCRIPTION)
_MOST_PANELS = 16
_HELP = f"""usage: seqmix inspect {{{"|".join(_KINDS)}}} WHAT [WHAT ...] --out FIGURE.svg

Figures of what is inside a layer. WHAT is a checkpoint, the folder of a run, a config, of which the
newest run is taken, or a mixer, with new weights.

  seqmix inspect spectrum   eigenvalues of the transitions, by token, also over training
  seqmix inspect mixing     mixing matrices: what each token takes from those before it
  seqmix inspect gradient   the norm of the gradient over the lag

{chr(10).join(text.splitlines()[0] for text in _EXAMPLES.values())}

seqmix inspect spectrum --help has every option; the same in Python: seqmix.inspect."""

Arrays = dict[str, Any]


@exits()
def main(argv: list[str]) -> int:
    """Run `seqmix inspect`; returns the exit status. Mistakes are `ValueError`s, before any work where that can be."""
    if not argv or argv[0] in ("-h", "--help"):
        print(_HELP)
        return 0
    kind, *rest = argv
    if kind not in _KINDS:
        raise unknown_name("figure", kind, _KINDS)
    arguments, changes = _parse(kind, rest)
    import_trusted(arguments.trust)
    trust = tuple(arguments.trust)
    options = Options(arguments.sequences, arguments.length, arguments.d_model, arguments.seed, changes, trust)
    targets = [find_target(what, options) for what in arguments.what]
    with style("seqmix inspect", extra="train", settings=figures.STYLE):
        figure, arrays = _DRAWN[kind](targets, arguments)
        data = encode(figure, arguments.out.suffix[1:])
    write_whole(arguments.out, lambda part: part.write_bytes(data))
    print(f"figure: {arguments.out}")
    if arguments.data is not None:
        _write(arguments.data, arrays)
        print(f"data: {arguments.data}")
    return 0


def _parse(kind: str, argv: list[str]) -> tuple[argparse.Namespace, tuple[tuple[str, Any], ...]]:
    parser = Parser(
        f"seqmix inspect {kind}",
        description=_DESCRIPTION[kind],
        epilog=f"examples:\n{_EXAMPLES[kind]}\n\n--mixer.ARGUMENT VALUE, and --model. and --data. likewise, change a "
        "config or a mixer\nthat is not trained, as in seqmix fit.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", nargs="+", metavar="WHAT", help="a checkpoint, a run's folder, a config or a mixer")
    parser.add_argument("--out", type=Path, required=True, metavar="FIGURE", help="where it goes, .svg or .png")
    parser.add_argument("--data", type=Path, metavar="FILE", help="the numbers as well, .npz or .json")
    text = "tokens of each sequence; default the task's, at most 4096, else 64"
    parser.add_argument("--length", type=int, metavar="T", help=text)
    parser.add_argument("--sequences", type=int, default=4, metavar="B", help="how many are looked at, default 4")
    parser.add_argument("--layer", type=int, metavar="N", help="one layer of the model, from 0; default all")
    parser.add_argument("--d-model", type=int, default=64, metavar="D", help="width of a mixer, default 64")
    parser.add_argument("--seed", type=int, default=0, help="of new weights and random inputs, default 0")
    add_trust_option(parser)
    if kind == "spectrum":
        parser.add_argument("--over-training", action="store_true", help="what the run recorded, instead of its end")
    if kind == "mixing":
        parser.add_argument("--heads", type=int, nargs="+", metavar="H", help="heads or channels, default the first 4")
        parser.add_argument("--sequence", type=int, default=0, metavar="I", help="which one is shown, default 0")
    arguments, rest = parser.parse_known_args(argv)
    changes = _changes(rest, [option for action in parser._actions for option in action.option_strings])
    for name, low in (("length", 1), ("sequences", 1), ("d_model", 1), ("layer", 0), ("sequence", 0)):
        value = getattr(arguments, name, None)
        if value is not None and value < low:
            raise ValueError(f"--{name.replace('_', '-')}: expected an integer of at least {low}, got {value}")
    for option, path, suffixes in (
        ("--out", arguments.out, (".svg", ".png")),
        ("--data", arguments.data, (".npz", ".json")),
    ):
        if path is not None:
            check_output(option, path, *suffixes)
    if kind == "mixing" and arguments.sequence >= arguments.sequences:
        raise ValueError(f"--sequence: expected less than --sequences {arguments.sequences}, got {arguments.sequence}")
    if getattr(arguments, "over_training", False) and len(arguments.what) > 1:
        raise ValueError(f"--over-training: expected one run, got {len(arguments.what)}")
    return arguments, changes


def _changes(rest: list[str], options: list[str]) -> tuple[tuple[str, Any], ...]:
    """What `--mixer.ARGUMENT VALUE` and the like say; `options` are those of the figure."""
    changes = []
    while rest:
        key, equals, value = rest.pop(0).partition("=")
        owner, _, argument = key.removeprefix("--").partition(".")
        if not key.startswith("--") or owner not in ("mixer", "model", "data") or not argument:
            raise unknown_name("option", key, [*options, "--mixer.ARGUMENT"])
        if not equals:
            if not rest:
                raise ValueError(f"{key}: expected a value")
            value = rest.pop(0)
        from seqmix.training.config.files import parse_value

        changes.append((key.removeprefix("--"), parse_value(value)))
    return tuple(changes)


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
