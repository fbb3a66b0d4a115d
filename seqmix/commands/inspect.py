"""`seqmix inspect spectrum|mixing|gradient`: one figure of a checkpoint, a config's model or a mixer."""

import argparse
from pathlib import Path
from typing import Any

from seqmix._files import check_output
from seqmix._suggest import unknown_name
from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, add_trust_option

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
_HELP = f"""usage: seqmix inspect {{{"|".join(_KINDS)}}} WHAT [WHAT ...] --out FIGURE.svg

Figures of what is inside a layer. WHAT is a checkpoint, the folder of a run, a config, of which the
newest run is taken, or a mixer, with new weights.

  seqmix inspect spectrum   eigenvalues of the transitions, by token, also over training
  seqmix inspect mixing     mixing matrices: what each token takes from those before it
  seqmix inspect gradient   the norm of the gradient over the lag

{chr(10).join(text.splitlines()[0] for text in _EXAMPLES.values())}

seqmix inspect spectrum --help has every option; the same in Python: seqmix.inspect."""


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
    from seqmix.commands._inspect_figures import draw

    draw(kind, arguments, changes)
    return 0


def _parse(kind: str, argv: list[str]) -> tuple[argparse.Namespace, tuple[tuple[str, Any], ...]]:
    parser = Parser(
        f"seqmix inspect {kind}",
        description=_DESCRIPTION[kind],
        epilog=f"examples:\n{_EXAMPLES[kind]}\n\n--mixer.ARGUMENT VALUE, and --model. and --data. likewise, change a "
        "config or a mixer\nthat is not trained, as in seqmix fit.",
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
