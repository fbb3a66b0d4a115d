"""`seqmix certify`: a certificate of a checkpoint, or the check of one."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmix._bounded import read_json
from seqmix._extras import require
from seqmix._files import check_output, write_text_whole
from seqmix._trust import import_trusted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser, add_trust_option
from seqmix.models.shipped import about_shipped, certificate_of, is_shipped
from seqmix.training.config.runs import checkpoint_named

if TYPE_CHECKING:
    from seqmix.inspect.certificates.record import Certificate
    from seqmix.models import SequenceModel

__all__ = ["describe", "main"]

_EPILOG = """examples:
  seqmix certify runs/a5/1                                   the last checkpoint of a run
  seqmix certify a5 --out a5.json                            of the newest run of a config; write the certificate
  seqmix certify --verify a5.json runs/a5/1                  check it, from the checkpoint alone
  seqmix certify --verify seqmix:a5                          check a model that comes with seqmix
  seqmix certify other.ckpt --task word-problem group=A5     of a checkpoint that does not say what it was trained on
  seqmix certify runs/cycle-navigation/1 --shortest-length 3

Exit status: 0 certified, or the file holds; 1 not; 2 a mistake in the arguments. The method: docs/certificates.md"""


@exits()
def main(argv: list[str]) -> int:
    """Run `seqmix certify`; returns the exit status."""
    parser = Parser(
        "seqmix certify",
        description="Replace the gates of a BD-LRU or H-LRU by their largest, and prove the finite automaton that the "
        "model then is right on words of every length, or name a shortest word that it gets wrong. Also: up to which "
        "length the model with its own gates is proved right, and which blocks carry a representation of the group. "
        "Of other layers: up to which length all words are answered rightly, and a word that is not; one layer of "
        "lstm, pd-ssm or mamba whose states are saturated, gathered or signs is proved for every length.",
        epilog=_EPILOG,
    )
    parser.add_argument(
        "checkpoint",
        nargs="?",
        help="a .ckpt file, the folder of a run, the config of runs under runs/, or seqmix:NAME (seqmix list models)",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--task", nargs="+", metavar="NAME [KEY=VALUE]", help="the task; default the checkpoint's own")
    source.add_argument("--config", metavar="NAME", help="a config that has the task")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="where the certificate goes")
    parser.add_argument(
        "--verify", metavar="FILE.json", help="check this certificate, or that of seqmix:NAME; nothing is searched"
    )
    parser.add_argument(
        "--max-states", type=int, default=20_000, metavar="N", help="reachable states, then give up; default 20000"
    )
    parser.add_argument(
        "--shortest-length", type=int, default=1, metavar="N", help="shorter words do not matter; default 1"
    )
    parser.add_argument(
        "--longest",
        type=int,
        default=1000,
        metavar="N",
        help="letters up to which other layers are tried; default 1000",
    )
    add_trust_option(parser)
    options = parser.parse_args(argv)
    import_trusted(options.trust)
    for name in ("max_states", "shortest_length", "longest"):
        if getattr(options, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')}: expected a positive integer, got {getattr(options, name)}")
    if options.verify is not None and options.out is not None:
        raise ValueError("--out: a certificate that is checked is not written; leave one of --out and --verify away")
    if options.out is not None:
        check_output("--out", options.out)
    file = None if options.verify is None else Path(options.verify)
    if is_shipped(options.verify):
        options.checkpoint, file = options.checkpoint or options.verify, certificate_of(options.verify)
    if options.checkpoint is None:
        raise ValueError("checkpoint: expected a .ckpt file, a run or seqmix:NAME, got nothing")
    held = None if file is None else _read(file)
    if not is_shipped(options.checkpoint):
        options.checkpoint = checkpoint_named(options.checkpoint)
    from seqmix.inspect.certificates import Certificate
    from seqmix.inspect.certificates.prove import certify
    from seqmix.inspect.certificates.verify import verify

    path, model, task = _load(options)
    try:
        if (held is not None and not isinstance(held, Certificate)) or not _hardens(model):
            return _bracket(held, file, options, path, model, task)
        if held is not None and file is not None:
            return _check(held, file, path, model, task)
        found = certify(model, task, max_states=options.max_states, shortest_length=options.shortest_length)
    except NotImplementedError as error:
        raise ValueError(str(error)) from None
    headline, *rest = describe(found)
    print("\n".join([headline, f"  {path}, {found.task}", *rest]))
    if options.out is not None:
        # A search that was given up leaves nothing to check.
        checked = found.certified or found.counterexample is not None
        if checked:
            verify(found, model, task)
        write_text_whole(options.out, json.dumps(found.to_dict(), separators=(",", ":")) + "\n")
        print(f"{options.out}: written{', and checked' if checked else ''}")
    return 0 if found.certified else 1


def describe(found: "Certificate") -> list[str]:
    """What was found, a line for each thing; first of the network as it was trained, then with hard gates."""
    lines = [found.headline]
    if found.certified:
        states = f"{found.states:,} states, {found.tracked_blocks} blocks in them"
        lines.append(f"  hardened: {states}, smallest margin {found.margin:.3g}")
        if found.safe_length is not None:
            lines.append(f"  its own gates are at most {found.gap:.2g} from hard ones")
    elif found.counterexample is not None:
        lines.append(f"  a shortest such word; with its own gates the model says {found.counterexample.soft_says}")
    for report in found.blocks:
        if report.kind != "none" and report.degree:
            faithful = "faithful" if report.faithful else f"kernel of {report.kernel}" if report.kernel else ""
            signed = "signed " if report.signed else ""
            parts = [report.kind, faithful, f"{signed}permutations of {report.degree} entries"]
            lines.append(f"  block {report.block}: {', '.join(filter(None, parts))}")
    return lines


def _hardens(model: "SequenceModel") -> bool:
    """Whether its gates can be hardened at all: layers of bd-lru and h-lru only."""
    from seqmix.mixers.bd_lru import BDLRU
    from seqmix.mixers.h_lru import HLRU

    return all(isinstance(mixer, BDLRU | HLRU) for mixer in model.mixers)


def _bracket(
    held: Any, file: Path | None, options: argparse.Namespace, path: Path | str, model: "SequenceModel", task: Any
) -> int:
    """Other layers: a length up to which all words are right, and a word that is not, searched for or checked."""
    from seqmix.atlas.bracket_files import bracket_content, check_content, headline
    from seqmix.atlas.brackets import horizon
    from seqmix.inspect.certificates import automaton_of

    automaton = automaton_of(task)
    if held is not None:
        try:
            found = check_content(held, model, automaton)
        except ValueError as error:
            print(f"{file}: refused for {path}: {str(error).removeprefix('bracket: ')}")
            return 1
        print(f"{headline(found)}\n  {file} holds for {path}, {automaton.name}")
        return 0
    found = horizon(model, automaton, options.longest)
    print(f"{headline(found)}\n  {path}, {automaton.name}")
    if options.out is not None:
        content = bracket_content(found, model, automaton)
        check_content(content, model, automaton)
        write_text_whole(options.out, json.dumps(content, separators=(",", ":")) + "\n")
        print(f"{options.out}: written, and checked")
    return 0 if found.safe == float("inf") else 1


def _read(path: Path) -> "Certificate | dict[str, Any]":
    from seqmix.inspect.certificates.record import Certificate

    try:
        content = read_json(path)
    except OSError as error:
        raise ValueError(f"--verify: cannot read {path}: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(f"--verify: {path} is not JSON: {error}") from None
    bracket = isinstance(content, dict) and content.get("format") == "seqmix-horizon"
    return content if bracket else Certificate.from_dict(content)


def _load(options: argparse.Namespace) -> "tuple[Path | str, SequenceModel, Any]":
    if is_shipped(options.checkpoint) and options.task is None and options.config is None:
        from seqmix.models import SequenceModel
        from seqmix.tasks import create_task

        spec = dict(about_shipped(options.checkpoint)["task"])
        model = SequenceModel.from_pretrained(options.checkpoint)
        return options.checkpoint, model, create_task(spec.pop("name"), **spec)
    for module in ("lightning.pytorch", "yaml"):
        require(module, extra="train", owner="seqmix certify")
    from seqmix.tasks import create_task
    from seqmix.training.config.files import load_config, parse_value
    from seqmix.training.loading import build_task, load_model, task_of

    path = options.checkpoint if isinstance(options.checkpoint, Path) else checkpoint_named(options.checkpoint)
    model = load_model(path, trust=options.trust)
    if options.config is not None:
        return path, model, build_task(load_config(options.config), trust=options.trust)
    if options.task is None:
        try:
            task = task_of(path, trust=options.trust)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"checkpoint: {path} does not say properly what it was trained on: {error}") from None
        if task is None:
            raise ValueError(f"checkpoint: {path} does not say which task it was trained on: --task or --config")
        return path, model, task
    name, *pairs = options.task
    for pair in pairs:
        if "=" not in pair:
            raise ValueError(f"--task: expected KEY=VALUE behind the name, got {pair!r}")
    arguments = {key: parse_value(value) for key, _, value in (pair.partition("=") for pair in pairs)}
    return path, model, create_task(name, **arguments)


def _check(held: "Certificate", file: Path, path: Path | str, model: "SequenceModel", task: Any) -> int:
    from seqmix.inspect.certificates.verify import verify

    try:
        verify(held, model, task)
    except ValueError as error:
        print(f"{file}: refused for {path}: {str(error).removeprefix('certificate: ')}")
        return 1
    headline, *rest = describe(held)
    lines = [headline, f"  {file} holds for {path}, {held.task}", *rest]
    if not held.certified:
        lines.append("  that no shorter word is answered wrongly was not checked")
    print("\n".join(lines))
    return 0
