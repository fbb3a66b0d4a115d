"""`seqmix leaderboard report`."""

import argparse
from pathlib import Path
from typing import Any

from seqmix._figures import check_suffix
from seqmix.commands._messages import tell
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add `report` to the commands of `seqmix leaderboard`."""
    text = "a Markdown table of runs"
    report = commands.add_parser("report", help=text, description=text, allow_abbrev=False)
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
        help="draw accuracy at the training length over the state's size",
    )
    report.set_defaults(action=_report)


def _report(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.leaderboard.summary.statistics import Criterion
    from seqmix.leaderboard.tables.report import collect, render
    from seqmix.leaderboard.tables.runs import COLUMN_MEASURES

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
        if colon and measure not in COLUMN_MEASURES:
            raise ValueError(
                f"--lengths: expected one of {', '.join(COLUMN_MEASURES)} before the colon, got {column!r}"
            )
    if arguments.figure is not None:
        from seqmix.studies.state_figure import draw, state_curves

        check_suffix("--figure", arguments.figure, ".svg")
        draw(arguments.figure, state_curves(records))
    text = render(records, arguments.kind, criteria=criteria, lengths=arguments.lengths)
    print_or_write(text, arguments, ["seqmix", "leaderboard", *argv])
    return 1 if problems else 0
