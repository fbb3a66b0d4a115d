"""Boards as Markdown: a row for each entry, a column for each task."""

from collections.abc import Sequence

from seqmix._markdown import escaped, markdown_table
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.aggregate import aggregate
from seqmix.leaderboard.summary.summaries import SOLVED, BoardSummary, CellSummary, EntrySummary
from seqmix.leaderboard.tables.runs import circumstances, in_accuracy, in_digits, not_validated

__all__ = ["board_table"]


def board_table(records: Sequence[Record]) -> str:
    """One table for each board, its best entry first."""
    boards = [board for board in aggregate(records) if board.columns]
    if not boards:
        raise ValueError("--kind board: expected at least one run that came to its end, got none")
    return "\n\n".join(_table(board) for board in boards)


def _table(board: BoardSummary) -> str:
    header = ["rank", "entry", "mean score", *(column.name for column in board.columns)]
    rows = [[*_head(entry), *_cells(board, entry)] for entry in board.entries]
    text = any(column.text for column in board.columns)
    cells = board.cells.values()
    title = [f"**{escaped(board.name)}**"] if board.name else []
    legend = (
        "Cells: median over the seeds on test data at the training length, at the learning rate that is best on "
        f"validation data, then the seeds that solved it ({SOLVED:g}) of all, – where the entry "
        "is no better than guessing"
        + ("; text in bits per byte, less is better" if text else "")
        + ". In brackets, the median over the grid of learning rates. Mean score: normalised so that guessing is 0, "
        "with its 95 % bootstrap interval; entries whose intervals overlap with that of the first of their rank share "
        f"it (=), and one that lacks a task has none. {not_validated(sum(cell.unvalidated for cell in cells))}"
        f"{circumstances(board.runs)}"
    )
    return "\n\n".join([*title, markdown_table(header, rows, left=2), legend])


def _head(entry: EntrySummary) -> list[str]:
    low, high = entry.interval
    rank = "" if entry.rank is None else f"{entry.rank}{'=' * entry.tied}"
    return [rank, entry.name, f"{entry.mean:.2f} ({low:.2f} to {high:.2f})"]


def _cells(board: BoardSummary, entry: EntrySummary) -> list[str]:
    found = [(board.cells.get((entry.name, column.name)), column.text) for column in board.columns]
    return ["" if cell is None else _cell(cell, text) for cell, text in found]


def _cell(cell: CellSummary, text: bool) -> str:
    median, middle = (in_digits(value) if text else in_accuracy(value) for value in (cell.median, cell.middle))
    solved = "" if cell.solved is None else f", {cell.solved}/{cell.n}" if cell.learned else ", –"
    return f"{median}{solved} ({middle})"
