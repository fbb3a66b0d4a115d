"""The command line of `seqmix leaderboard`."""

import argparse

from seqmix.commands._messages import exits, torn_lines_told
from seqmix.commands._options import Parser
from seqmix.commands.leaderboard import page as cli_page
from seqmix.commands.leaderboard import records as cli_records
from seqmix.commands.leaderboard import report as cli_report
from seqmix.commands.leaderboard import run as cli_sweep

__all__ = ["main"]

_EPILOG = """examples:
  seqmix leaderboard run board.yaml --store boards/board.jsonl --jobs 2
  seqmix leaderboard run a5 --seeds 0 1 2 3 4 --store boards/a5.jsonl
  seqmix leaderboard report boards/a5.jsonl --kind seeds --solved 16:0.99 64:0.6 --write README.md --section a5
  seqmix leaderboard run parity parity-mamba --lr 1e-3 3e-3 1e-2 --store boards/parity.jsonl --jobs 2
  seqmix leaderboard report boards/parity.jsonl --kind summary --solved 2x:0.95
  seqmix leaderboard page boards/*.jsonl --out site
  seqmix leaderboard validate boards/*.jsonl
  seqmix leaderboard rerun 7c5d0330 --store boards/a5.jsonl
  seqmix leaderboard convert boards/a5.jsonl a5.parquet

A sweep that was stopped continues when it is started again. What a record holds: docs/leaderboard.md"""


@exits("seqmix leaderboard")
def main(argv: list[str]) -> int:
    """Run `seqmix leaderboard` with these arguments; returns the exit status.

    0: done; 1: a run has failed, or a file has lines that are no records; 2: a mistake in the arguments; 130: stopped.
    """
    arguments = _parser().parse_args(argv)
    with torn_lines_told():
        return arguments.action(arguments, argv)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "seqmix leaderboard",
        description="Run configs with many seeds and learning rates, record every run, and make tables of them.",
        epilog=_EPILOG,
    )
    commands = parser.add_subparsers()
    cli_sweep.add_command(commands)
    cli_report.add_command(commands)
    cli_page.add_command(commands)
    cli_records.add_commands(commands)
    return parser
