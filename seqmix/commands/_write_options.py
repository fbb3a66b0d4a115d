"""`--write FILE.md --section NAME`: how the commands that make a table put it into a document."""

import argparse
import shlex
from collections.abc import Sequence
from pathlib import Path

from seqmix._markdown import code

__all__ = ["add_write_options", "check_write_options", "print_or_write"]


def add_write_options(
    parser: argparse.ArgumentParser, what: str = "write into this file; default the terminal"
) -> None:
    """The two options; `what` is the help text of the first."""
    parser.add_argument("--write", type=Path, metavar="FILE.md", help=what)
    parser.add_argument("--section", metavar="NAME", help="between <!-- seqmix:NAME --> and <!-- /seqmix:NAME -->")


def check_write_options(arguments: argparse.Namespace) -> None:
    """`ValueError` for one without the other."""
    if (arguments.write is None) != (arguments.section is None):
        raise ValueError("--write and --section: expected both or none, got one")


def print_or_write(text: str, arguments: argparse.Namespace, command: Sequence[str] = ()) -> None:
    """Print a table, or put it where the options say, with the words of the `command` that wrote it below."""
    if arguments.write is None:
        print(text)
        return
    from seqmix.leaderboard.tables.report import write_section

    if command:
        text += f"\n\nWritten by {code(shlex.join(command))}."
    changed = write_section(arguments.write, arguments.section, text)
    print(f"{arguments.write}: section {arguments.section} {'written' if changed else 'says so already'}")
