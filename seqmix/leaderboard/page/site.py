"""A folder of static pages that says what records mean: `seqmix leaderboard page`."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from seqmix import __version__
from seqmix._measures import named
from seqmix.leaderboard.boards.board import Board
from seqmix.leaderboard.boards.submissions import Submission
from seqmix.leaderboard.page.board_view import BoardView
from seqmix.leaderboard.page.data import write_cells, write_records, write_runs
from seqmix.leaderboard.page.pages import Context, Names, Pages, check_folder, write_pages
from seqmix.leaderboard.page.plots import NAMED
from seqmix.leaderboard.page.runs_page import CellPage, cell_page, runs_part
from seqmix.leaderboard.page.svg import strip, symbols
from seqmix.leaderboard.page.task_page import Shared, TaskPage, series_of, task_page, task_part
from seqmix.leaderboard.page.views import CellView, EntryView
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.aggregate import aggregate

__all__ = ["write_site"]

# What one page holds at most, so that no page outgrows two megabytes: cells of an overview, rows of a task, runs.
_CELLS, _ROWS, _RUNS = 2_400, 250, 400


def write_site(
    records: Sequence[Record],
    out: Path,
    *,
    title: str = "seqmix leaderboard",
    plans: Sequence[Board] = (),
    submissions: Sequence[Submission] = (),
) -> dict[str, int]:
    """Make or replace the folder `out`; returns the bytes of each of its files.

    Pages of boards are kept apart: `index.html` is the table of the first, with links to the others. What a plan with
    the name of a board asks for and has no run is said; without one, what other entries have. Entries of `submissions`
    show what their folders say; `records` must have their runs.

    Raises:
        ValueError: a folder with files that are not of such pages, or records of which none came to its end.
    """
    out = Path(out)
    check_folder(out)
    boards = aggregate(records)
    known = {plan.name: plan for plan in plans}
    if strange := known.keys() - {board.name for board in boards}:
        raise ValueError(f"--board: no record is of board {', '.join(map(repr, sorted(strange)))}")
    names = Names("assets", "index")
    views = [
        BoardView(
            board,
            f"{names.of(board.name or 'runs')}/",
            first=number == 0,
            plan=known.get(board.name),
            submissions={found.name: found for found in submissions},
        )
        for number, board in enumerate(board for board in boards if board.columns)
    ]
    if not views:
        raise ValueError("no pages: expected at least one run that came to its end, got none")
    dates = [record["repro"]["utc"][:10] for record in records]
    site = {"title": title, "version": __version__, "boards": views, "n_records": len(records), "newest": max(dates)}

    def fill(pages: Pages) -> None:
        for view in views:
            _write_board(pages, view)

    return write_pages(out, site, fill)


def _write_board(pages: Pages, board: BoardView) -> None:
    folder = pages.folder / board.folder / "data"
    folder.mkdir(parents=True)
    write_cells(folder / "board.csv", board.board)
    write_records(folder / "runs.jsonl", board.board.runs)
    sample = strip([(0.3, "u"), (0.55, "u"), (0.96, "k"), (0.98, "k"), (0.99, "k")], 0.62, "an example")
    overview = partial(_overview, board, sample)
    pages.paged(board.href, "overview.html", board.entries, max(1, _CELLS // len(board.tasks)), overview)
    for page in [task_page(board, task) for task in board.tasks]:
        task, cells = page.task, [view.summary for view in page.cells]
        write_runs(folder / f"{task.slug}.csv", task.column, cells, named(task.column.metric).key)
        pages.paged(task.href, "task.html", page.cells, _ROWS, partial(_task, board, page))
        shared = Shared([series_of(view) for view in page.cells])
        for view in page.cells:
            runs = [run for rate in view.summary.rates for run in rate.runs]  # by learning rate, then by seed
            pages.paged(view.page, "runs.html", runs, _RUNS, partial(_runs, board, cell_page(view, shared)))
    for entry in board.entries:
        pages.render(entry.href, "entry.html", board=board, entry=entry)


def _overview(board: BoardView, sample: Any, entries: Sequence[EntryView]) -> Context:
    return {"board": board, "entries": entries, "sample": sample}


def _task(board: BoardView, page: TaskPage, views: Sequence[CellView]) -> Context:
    part = task_part(page, views)
    return {"board": board, "symbols": symbols(), "task": page.task, "whole": page, "part": part, "named": NAMED}


def _runs(board: BoardView, cell: CellPage, runs: Sequence[Record]) -> Context:
    entry, task = cell.view.entry, cell.view.task
    part = runs_part(cell, runs)
    return {"board": board, "symbols": symbols(1), "task": task, "entry": entry, "cell": cell, "part": part}
