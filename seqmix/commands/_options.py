"""What the parsers of commands have in common: mistakes of one line, options and kinds of values."""

import argparse
import difflib
import re
from typing import Any, NoReturn

__all__ = ["Parser", "add_trust_option", "positive", "why_unusable"]


class Parser(argparse.ArgumentParser):
    """argparse's, which tells a mistake in one line, with the nearest options or choices; none is abbreviated.

    An epilog of several lines stays as it is written. Subcommands are described by their help, if by nothing else.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        if "\n" in (kwargs.get("epilog") or ""):
            kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, **{"allow_abbrev": False} | kwargs)
        self.register("action", "parsers", _Subcommands)

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"(?:unrecognized arguments: |invalid choice: ')([^\s=']+)", message)
        known = [str(name) for each in self._actions for name in (*each.option_strings, *(each.choices or ()))]
        near = difflib.get_close_matches(wrong[1], known, n=3) if wrong else []
        hint = f"did you mean {' or '.join(near)}?" if near else f"{self.prog} --help says what there is"
        self.exit(2, f"{self.prog}: error: {message}; {hint}\n")

    def add_subparsers(self, **kwargs: Any) -> Any:
        asked: dict[str, Any] = {"dest": "command", "required": True, "metavar": "COMMAND", "parser_class": _Subcommand}
        return super().add_subparsers(**asked | kwargs)


class _Subcommands(argparse._SubParsersAction):
    def add_parser(self, name: str, **kwargs: Any) -> Any:
        kwargs.setdefault("description", kwargs.get("help"))
        return super().add_parser(name, **kwargs)


class _Subcommand(Parser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        # What is not known is told here: the parser above has other options.
        found, rest = super().parse_known_args(args, namespace)
        if rest:
            self.error(f"unrecognized arguments: {' '.join(rest)}")
        return found, rest


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


def why_unusable(device: str) -> str | None:
    """Why torch cannot use a device here, in its own words; None where it can."""
    import torch

    try:
        torch.empty(1, device=device)
    except (AssertionError, RuntimeError) as error:
        return str(error).partition("\n")[0]
    return None
