"""The command line of `seqmix atlas`."""

import argparse
from pathlib import Path

from seqmix._files import check_output, write_bytes_whole
from seqmix.commands._messages import exits, tell
from seqmix.commands._options import Parser
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write

__all__ = ["main"]

_EPILOG = """examples:
  seqmix atlas --figure docs/atlas.svg --write docs/atlas.md --section atlas
  seqmix atlas --mixer mamba 'mamba, signed' --automaton Z2 S3
  seqmix atlas --mixer deltanet --automaton first --why
  seqmix atlas --mixer 'bd-lru, any m' --automaton S3 --check
  seqmix atlas --mixer 'mamba, signed' --automaton Q8 --layers 2 --check
  seqmix atlas --records docs/results/*.jsonl
  seqmix leaderboard run atlas --store runs.jsonl

Nothing is trained here: cells follow from theorems and from weights that are written."""


@exits("seqmix atlas")
def main(argv: list[str]) -> int:
    """Run `seqmix atlas`; the exit status is 1 for written weights that err, and for runs that a theorem forbids."""
    from seqmix.atlas.cells import AUTOMATA, MIXERS, names_of
    from seqmix.atlas.page import cells_of, draw, sheet, table

    arguments = _parser().parse_args(argv)
    check_write_options(arguments)
    for path in arguments.figure:
        check_output("--figure", path, ".svg", ".png")
    if arguments.records:
        return _records(arguments, argv)
    mixers = names_of("mixer", arguments.mixer, MIXERS)
    automata = names_of("automaton", arguments.automaton, AUTOMATA)
    cells = cells_of(mixers, automata, arguments.layers)
    if arguments.check:
        return _check([key for key, found in cells.items() if found.verdict == "can"], arguments.layers)
    if arguments.why:
        print("\n\n".join(sheet(*key, found, MIXERS[key[0]], arguments.layers) for key, found in cells.items()))
        return 0
    for path in arguments.figure:
        write_bytes_whole(path, draw(cells, mixers, automata, path.suffix[1:]))
    print_or_write(table(cells, mixers, automata, arguments.layers), arguments, ["seqmix", "atlas", *argv])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "seqmix atlas",
        description="Which layers can follow which finite automata: theorems and written weights, cell by cell.",
        epilog=_EPILOG,
    )
    parser.add_argument("--mixer", nargs="+", default=[], metavar="NAME", help="rows, default all")
    parser.add_argument("--automaton", nargs="+", default=[], metavar="NAME", help="columns, default all")
    parser.add_argument("--layers", type=int, default=1, metavar="N", help="layers of the model, default 1")
    parser.add_argument("--why", action="store_true", help="say of each cell what it follows from")
    parser.add_argument(
        "--check", action="store_true", help="make the weights of cells that can, and try words on them"
    )
    parser.add_argument(
        "--figure", nargs="+", type=Path, default=[], metavar="FILE", help="the table drawn, .svg or .png"
    )
    parser.add_argument(
        "--records", nargs="+", type=Path, default=[], metavar="FILE.jsonl",
        help="count the runs that solved what the atlas says they can or cannot, and print contradictions",
    )  # fmt: skip
    add_write_options(parser)
    return parser


def _records(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.leaderboard.summary.atlas_records import contradictions, learned, table
    from seqmix.leaderboard.tables.report import collect

    records, problems = collect(arguments.records)
    tell(problems)
    cells = learned(records)
    wrong = contradictions(cells)
    tell(wrong)
    print_or_write(table(cells), arguments, ["seqmix", "atlas", *argv])
    return 1 if problems or wrong else 0


def _check(keys: list[tuple[str, str]], layers: int) -> int:
    from seqmix.atlas.cells import AUTOMATA, MIXERS
    from seqmix.atlas.written import check, closed, construct

    status = 0
    for mixer, automaton in keys:
        try:
            made = construct(MIXERS[mixer], AUTOMATA[automaton], min(layers, 2))
        except ValueError as error:  # too large to be made here
            print(f"{mixer}, {automaton}: not tried, {error}")
            continue
        found = check(made.model, made.automaton)
        status |= found.wrong is not None
        told = "right" if found.wrong is None else f"wrong after {found.wrong}"
        states = closed(made.model, made.automaton) if made.plan.exact and not mixer.startswith("attention") else None
        every = "" if states is None else f"; closed after {states} states, right at every length"
        print(f"{mixer}, {automaton}: {told} on {found.words:,} words, margin {found.margin:.3f}{every}")
    return status
