"""The command line of `seqmix shift-k`."""

import argparse
from pathlib import Path
from typing import Any

from seqmix._files import check_output, write_text_whole
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write

__all__ = ["main"]


@exits()
def main(argv: list[str]) -> int:
    """Run `seqmix shift-k` with these arguments; returns the exit status."""
    arguments = _parser().parse_args(argv)
    check_write_options(arguments)
    if arguments.store is not None:
        check_output("--store", arguments.store)
    from seqmix.studies.shift_k import Search, figure, fits, table

    search = Search(arguments.order, arguments.starts, arguments.steps, arguments.lr, arguments.seed)
    records = fits(arguments.mixer, arguments.states, arguments.shifts, search, arguments.store)
    text = table(records)
    print(text)
    if arguments.figure is not None:
        write_text_whole(arguments.figure, figure(records))
        print(f"figure: {arguments.figure}")
    if arguments.write is not None:
        if arguments.figure is not None:
            text += f"\n\n![error over its lower bound, by mixer]({arguments.figure.name})"
        print_or_write(text, arguments, ["seqmix", "shift-k", *argv])
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "seqmix shift-k",
        description="Fit poles to the task of saying the input of K steps ago, by the exact error, and hold it against "
        "the lower bound 1 - S / (K + 1) for S poles. Poles are those of layers whose gates are constant.",
        epilog="example: seqmix shift-k --mixer lru h-lru bd-lru --states 4 8 16 --shifts 32 64 128",
    )
    numbers: dict[str, Any] = {"nargs": "+", "type": int, "metavar": "N"}
    parser.add_argument("--mixer", nargs="+", default=["lru", "h-lru", "bd-lru"], help="default: all three")
    parser.add_argument("--states", default=[4, 8, 16], help="numbers of poles S, default 4 8 16", **numbers)
    parser.add_argument("--shifts", default=[32, 64, 128], help="shifts K, default 32 64 128", **numbers)
    parser.add_argument("--order", type=int, default=4, help="order of h-lru, block size of bd-lru, default 4")
    parser.add_argument("--starts", type=int, default=8, help="starts of each fit, default 8")
    parser.add_argument("--steps", type=int, default=1500, help="steps of Adam, default 1500")
    parser.add_argument("--lr", type=float, default=0.05, help="of Adam, default 0.05")
    parser.add_argument("--seed", type=int, default=0, help="of the starts, default 0")
    parser.add_argument("--store", type=Path, metavar="FILE.jsonl", help="records: fits in it are not made again")
    parser.add_argument("--figure", type=Path, metavar="FILE.svg", help="error against the bound")
    add_write_options(parser, "write the table into this file")
    return parser
