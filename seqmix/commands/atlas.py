"""The command line of `seqmix atlas`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from seqmix._files import check_output, write_bytes_whole
from seqmix.commands._messages import exits, tell
from seqmix.commands._options import Parser
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write

if TYPE_CHECKING:
    from seqmix.atlas.page import Cells
    from seqmix.leaderboard.summary.atlas_records import Learned

__all__ = ["main"]

_EPILOG = """examples:
  seqmix atlas --write docs/atlas.md --section atlas
  seqmix atlas --mixer mamba 'mamba, signed' --automaton Z2 S3
  seqmix atlas --mixer deltanet --automaton first --why
  seqmix atlas --mixer 'bd-lru, any m' --automaton S3 --check
  seqmix atlas --mixer 'mamba, signed' --automaton Q8 --layers 2 --check
  seqmix atlas --records docs/results/*.jsonl
  seqmix atlas --records docs/results/*.jsonl --out atlas
  seqmix leaderboard run atlas --store runs.jsonl

Nothing is trained here: cells follow from theorems and from weights that are written."""


@exits("seqmix atlas")
def main(argv: list[str]) -> int:
    """Run `seqmix atlas`; the exit status is 1 for written weights that err, and for runs that a theorem forbids."""
    from seqmix.atlas.cells import AUTOMATA, MIXERS, names_of
    from seqmix.atlas.page import cells_of, table

    arguments = _parser().parse_args(argv)
    check_write_options(arguments)
    for path in arguments.figure:
        check_output("--figure", path, ".svg", ".png")
    if (arguments.cells or arguments.out) and not arguments.records:
        raise ValueError("--cells and --out show what was learned: expected --records FILE.jsonl ..., got none")
    found, status = _learned(arguments.records) if arguments.records else ([], 0)
    if found and not (arguments.cells or arguments.out or arguments.figure or arguments.why or arguments.check):
        from seqmix.leaderboard.summary.atlas_records import table as by_verdict

        print_or_write(by_verdict(found), arguments, ["seqmix", "atlas", *argv])
        return status
    mixers = names_of("mixer", arguments.mixer, MIXERS)
    automata = names_of("automaton", arguments.automaton, AUTOMATA)
    cells = cells_of(mixers, automata, arguments.layers)
    if arguments.check:
        return status | _check([key for key, known in cells.items() if known.verdict == "can"], arguments.layers)
    text = _marked(arguments, cells, found, mixers, automata)
    text = table(cells, mixers, automata, arguments.layers) if text is None else text
    if text:
        print_or_write(text, arguments, ["seqmix", "atlas", *argv])
    return status


def _marked(
    arguments: argparse.Namespace,
    cells: "Cells",
    found: "Sequence[Learned]",
    mixers: list[str],
    automata: list[str],
) -> str | None:
    """What options ask for beside the plain table: figures, pages, and what is printed; None for that table."""
    from seqmix.atlas.page import draw, sheet
    from seqmix.leaderboard.summary.atlas_marks import marks_of

    marks = marks_of(cells, found, arguments.layers)
    counts = {key: (each.solved, each.runs, each.certified) for key, each in marks.items()} if found else None
    for path in arguments.figure:
        # Beside a figure stands the folder of its pages.
        drawn = draw(cells, mixers, automata, path.suffix[1:], counts, f"{path.stem}/")
        write_bytes_whole(path, drawn)
    if arguments.out is not None:
        from seqmix.leaderboard.page.atlas_pages import write_atlas

        weight = write_atlas(marks, arguments.out, mixers, automata, arguments.layers)
        print(f"{arguments.out / 'index.html'}: {len(weight)} files of {sum(weight.values()) / 1e6:.2f} MB")
    if arguments.why:
        from seqmix.atlas.cells import MIXERS

        told = [
            sheet(*key, each.prediction, MIXERS[key[0]], arguments.layers) + (f"\n  {each.told}" if each.runs else "")
            for key, each in marks.items()
        ]
        return "\n\n".join(told)
    if arguments.cells:
        from seqmix.leaderboard.tables.atlas_cells import cells_table

        return cells_table(marks, mixers, automata, arguments.layers)
    return "" if arguments.out is not None else None


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
    parser.add_argument(
        "--cells", action="store_true", help="with --records: the table, with runs and certificates in each cell"
    )
    parser.add_argument(
        "--out", type=Path, metavar="FOLDER",
        help="with --records: pages, a figure whose fields lead to theorems, weights, runs and certificates",
    )  # fmt: skip
    add_write_options(parser)
    return parser


def _learned(files: list[Path]) -> "tuple[list[Learned], int]":
    """What records say of cells, and the exit status; contradictions are told."""
    from seqmix.leaderboard.summary.atlas_records import contradictions, learned
    from seqmix.leaderboard.tables.report import collect

    records, problems = collect(files)
    tell(problems)
    found = learned(records)
    wrong = contradictions(found)
    tell(wrong)
    return found, 1 if problems or wrong else 0


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
