"""`seqmix leaderboard report`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmix._files import check_output
from seqmix._measures import MEASURES
from seqmix.commands._messages import tell
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write

if TYPE_CHECKING:
    from seqmix.leaderboard.records.schema import Record

__all__ = ["add_command"]

_MEASURES = tuple(measure.key for measure in MEASURES if measure.kind == "share")


def add_command(commands: Any) -> None:
    """Add `report` to the commands of `seqmix leaderboard`."""
    report = commands.add_parser("report", help="a Markdown table of runs")
    report.add_argument("files", nargs="+", type=Path, metavar="PATH", help="FILE.jsonl, or the folder of a submission")
    report.add_argument(
        "--kind",
        choices=("seeds", "summary", "text", "board"),
        default="summary",
        help="seeds: a row for each seed, and the median; summary (default): a row for each config; text: the same "
        "for runs on text, in bits per byte; board: entries by tasks, with ranks",
    )
    report.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="shell patterns of config names")
    report.add_argument(
        "--solved",
        nargs="+",
        metavar="LENGTH:ACCURACY",
        help="when a run is solved: 16:0.99 64:0.6 for both, 2x:0.95 in training lengths, last:80:0.95 by another "
        "measure (last, seq, tok, free_seq, free_tok) than the task's own; default 1x:0.99",
    )
    report.add_argument(
        "--lengths",
        nargs="+",
        metavar="T",
        help="columns, lengths or names of test sets, with another measure than the task's own in front as in "
        "free_seq:16; default all that were tested",
    )
    add_write_options(report)
    report.add_argument(
        "--figure",
        type=Path,
        metavar="FILE.svg",
        help="draw accuracy, at the training length over the state's size, or as --over says",
    )
    report.add_argument(
        "--over",
        choices=("state", "length"),
        default="state",
        help="what the figure has below: the size of the state (default), or the length of the test words",
    )
    report.add_argument(
        "--measure", choices=_MEASURES, help="of a figure over length; default the one that decides the task"
    )
    report.set_defaults(action=_report)


def _report(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.leaderboard.summary.statistics import Criterion
    from seqmix.leaderboard.tables.report import collect, render

    check_write_options(arguments)
    if arguments.kind == "board" and (arguments.solved or arguments.lengths):
        raise ValueError("--kind board: it decides --solved and --lengths itself, expected neither")
    try:
        criteria = [Criterion.parse(text) for text in arguments.solved or ["1x:0.99"]]
    except ValueError as error:
        raise ValueError(f"--solved: {error}") from None
    records, problems = collect(arguments.files, arguments.only)
    tell(problems)
    for column in arguments.lengths or ():
        measure, colon, _ = column.rpartition(":")
        if colon and measure not in _MEASURES:
            raise ValueError(f"--lengths: expected one of {', '.join(_MEASURES)} before the colon, got {column!r}")
    if arguments.figure is not None:
        check_output("--figure", arguments.figure, ".svg")
        _draw(arguments, records)
    text = render(records, arguments.kind, criteria=criteria, lengths=arguments.lengths)
    print_or_write(text, arguments, ["seqmix", "leaderboard", *argv])
    return 1 if problems else 0


def _draw(arguments: argparse.Namespace, records: "list[Record]") -> None:
    from seqmix.leaderboard.tables import length_figure, state_figure

    if arguments.over == "length":
        length_figure.draw(arguments.figure, length_figure.length_curves(records, arguments.measure))
    elif arguments.measure is not None:
        raise ValueError("--measure: it is that of a figure over length, expected --over length with it")
    else:
        state_figure.draw(arguments.figure, state_figure.state_curves(records))
