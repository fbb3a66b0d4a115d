"""The command line of `seqmix block-law`."""

import argparse
from pathlib import Path

from seqmix._files import check_output
from seqmix.commands._messages import exits, tell, torn_lines_told
from seqmix.commands._options import Parser
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write
from seqmix.commands.leaderboard.run import add_sweep_options, make_records

__all__ = ["main"]

_EPILOG = """examples:
  seqmix block-law run --store docs/results/block-law.jsonl --jobs 2
  seqmix block-law run --groups Z2 S3 --m 1 2 3 --gates softmax --seeds 0 1 --store boards/law.jsonl
  seqmix block-law run --groups Q8 --m 2 3 4 8 --read-out any --store docs/results/block-law.jsonl
  seqmix block-law figure docs/results/block-law.jsonl --figure docs/block-law.svg docs/block-law.png \\
      --write docs/certificates.md --section block-law

Runs are those of `seqmix leaderboard run`, in records of the same kind; a sweep that was stopped continues."""


@exits("seqmix block-law")
def main(argv: list[str]) -> int:
    """Run `seqmix block-law`; returns the exit status, as `seqmix leaderboard` does."""
    arguments = _parser().parse_args(argv)
    with torn_lines_told():
        return arguments.action(arguments, argv)


def _parser() -> argparse.ArgumentParser:
    from seqmix.studies.block_law import BLOCK_SIZES, CONFIG, GATES, GROUPS, READ_OUTS

    parser = Parser(
        "seqmix block-law",
        description="Which groups BD-LRU learns with which block sizes, beside what the groups themselves say.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers()
    run = commands.add_parser("run", help="do every (group, gates, block size, seed) that a file has no record of yet")
    run.add_argument("--config", default=CONFIG, metavar="CONFIG", help=f"what is run, default {CONFIG}")
    run.add_argument("--groups", nargs="+", default=GROUPS, metavar="NAME", help=f"default {' '.join(GROUPS)}")
    sizes = " ".join(map(str, BLOCK_SIZES))
    run.add_argument("--m", nargs="+", type=int, default=BLOCK_SIZES, metavar="M", help=f"block sizes, default {sizes}")
    run.add_argument("--gates", nargs="+", default=list(GATES), metavar="KIND", help="softmax, signed; default both")
    run.add_argument("--read-out", choices=READ_OUTS, default="linear", help="any: with an MLP; default linear")
    add_sweep_options(run, configs=False, seeds=range(10))
    run.set_defaults(action=_run)

    figure = commands.add_parser("figure", help="a figure and a table of the records")
    figure.add_argument("files", nargs="+", type=Path, metavar="FILE.jsonl")
    figure.add_argument("--figure", nargs="+", type=Path, default=[], metavar="FILE", help="heat maps, .svg or .png")
    add_write_options(figure)
    figure.set_defaults(action=_figure)
    return parser


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.studies.block_law import plan

    runs = plan(
        arguments.groups, arguments.m, arguments.gates, arguments.seeds, arguments.read_out, arguments.set,
        arguments.config,
    )  # fmt: skip
    return make_records(runs, arguments, "seqmix block-law")


def _figure(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix._files import write_bytes_whole
    from seqmix.leaderboard.tables.report import collect
    from seqmix.studies.block_law import cells_of, table
    from seqmix.studies.block_law_figure import draw

    check_write_options(arguments)
    for path in arguments.figure:
        check_output("--figure", path, ".svg", ".png")
    records, problems = collect(arguments.files)
    tell(problems)
    cells = cells_of(records)
    for path in arguments.figure:
        write_bytes_whole(path, draw(cells, path.suffix[1:]))
    text = table(cells)
    print_or_write(text, arguments, ["seqmix", "block-law", *argv])
    return 1 if problems else 0
