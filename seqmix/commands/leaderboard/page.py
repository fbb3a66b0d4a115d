"""`seqmix leaderboard page`."""

import argparse
from pathlib import Path
from typing import Any

from seqmix._trust import import_trusted
from seqmix.commands._messages import tell
from seqmix.commands._options import add_trust_option

__all__ = ["add_command"]


def add_command(commands: Any) -> None:
    """Add `page` to the commands of `seqmix leaderboard`."""
    page = commands.add_parser("page", help="static pages of boards: tables, plots, every run with its command line")
    page.add_argument("files", nargs="+", type=Path, metavar="PATH", help="FILE.jsonl, or the folder of a submission")
    page.add_argument("--out", type=Path, required=True, metavar="FOLDER", help="made, or replaced as a whole")
    page.add_argument("--title", default="seqmix leaderboard", help="on every page")
    page.add_argument(
        "--board",
        nargs="+",
        default=[],
        metavar="BOARD",
        help="shipped boards or files: pages say which of their runs are missing; default what other entries have",
    )
    page.add_argument("--figures", type=Path, metavar="FOLDER", help="write the figures there, too, as PNG and SVG")
    add_trust_option(page)
    page.set_defaults(action=_page)


def _page(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.leaderboard.boards.board import find_board, list_boards, load_board
    from seqmix.leaderboard.boards.submissions import read_submission
    from seqmix.leaderboard.page import write_site
    from seqmix.leaderboard.tables.report import collect

    import_trusted(arguments.trust)
    plans = []
    for name in arguments.board:
        path = find_board(name)
        if path is None:
            raise ValueError(f"--board: expected a file or one of {', '.join(list_boards())}, got {name!r}")
        plans.append(load_board(path, trust=arguments.trust))
    records, problems = collect(arguments.files)
    tell(problems)
    submissions = [read_submission(path) for path in arguments.files if path.is_dir()]
    weight = write_site(records, arguments.out, title=arguments.title, plans=plans, submissions=submissions)
    total, largest = sum(weight.values()), max(weight, key=lambda name: weight[name])
    print(
        f"{arguments.out / 'index.html'}: {len(weight)} files of {total / 1e6:.2f} MB, the largest {largest} of "
        f"{weight[largest] / 1e3:.0f} kB, data beside them"
    )
    if arguments.figures is not None:
        from seqmix.leaderboard.page.figures import write_figures

        print(f"{arguments.figures}: {len(write_figures(records, arguments.figures))} figures")
    return 1 if problems else 0
