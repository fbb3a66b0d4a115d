"""`--trust MODULE`, of every command that looks at what others made."""

import argparse

__all__ = ["add_trust_option"]


def add_trust_option(parser: argparse.ArgumentParser) -> None:
    """`--trust MODULE`, as often as needed."""
    parser.add_argument(
        "--trust",
        action="append",
        default=[],
        metavar="MODULE",
        help="import this module, and let files name what is in it: it is code that runs, so read it first",
    )
