"""Options and kinds of values that several commands have."""

import argparse

__all__ = ["add_trust_option", "positive"]


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """`--trust MODULE`, as often as needed, of commands that look at what others made."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this module, and let files name what is in it: it is code that runs, so read it first",
    )


def positive(text: str) -> int:
    """An argument that is a positive integer."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)
