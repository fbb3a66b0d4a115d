"""What a board lacks: cells that were not run, rates and seeds, runs that broke, data that differ."""

from collections import Counter
from dataclasses import dataclass

from seqmix.leaderboard.boards.board import Board
from seqmix.leaderboard.page.words import plural
from seqmix.leaderboard.summary.statistics import broken
from seqmix.leaderboard.summary.summaries import BoardSummary, CellSummary

__all__ = ["MissingList", "absent_cells", "missing_of"]

Hrefs = dict[tuple[str, str], str]


@dataclass(frozen=True)
class Line:
    """Something that is missing, with a note, and where its page is."""

    text: str
    note: str = ""
    href: str | None = None


@dataclass(frozen=True)
class MissingList:
    """A list with its title; `more` are the lines that are shown when they are asked for."""

    title: str
    lines: list[Line]
    more: list[Line]


Lines = list[Line]

# Lines of one list; more are folded away.
_LISTED = 12


def absent_cells(board: BoardSummary, plan: Board | None) -> list[tuple[str, str]]:
    """(entry, column) without a run, of the plan's, or of all; runs without a board were not meant to fill one."""
    if plan is None and not board.name:
        return []
    if plan is None:
        wanted = [(entry.name, column.name) for column in board.columns for entry in board.entries]
    else:
        wanted = [(row, task) for task in plan.tasks for row in plan.rows(task)]
    return [key for key in wanted if key not in board.cells]


def missing_of(board: BoardSummary, hrefs: Hrefs, plan: Board | None, column: str | None = None) -> list[MissingList]:
    """Lists with their titles, of the whole board or of a column; `hrefs` are the pages of the cells."""
    here = [item for item in board.columns if column in (None, item.name)]
    cells = [cell for cell in board.cells.values() if column in (None, cell.column)]
    absent = [Line(f"{row} on {task}") for row, task in absent_cells(board, plan) if column in (None, task)]
    lists: dict[str, Lines] = {
        "Not run": absent,
        "No run came to its end": [Line(name) for name in board.unmeasured if column is None],
        "Learning rates not run": _rates(cells, hrefs, plan),
        "Seeds not run": _seeds(cells, hrefs, plan),
        "Best rate at an end of the grid": _ends(cells, hrefs),
        "Diverged": _broken(cells, hrefs, "diverged"),
        "Failed": _broken(cells, hrefs, "failed"),
        "Never validated, counted as the worst where the rate was chosen": [
            Line(_name(cell), plural(cell.unvalidated, "run"), hrefs[cell.entry, cell.column])
            for cell in cells
            if cell.unvalidated
        ],
        "Several configs in one cell": [
            Line(_name(cell), f"{cell.variants} configs", hrefs[cell.entry, cell.column])
            for cell in cells
            if cell.variants > 1
        ],
        "Test data of several versions": [
            Line(item.name, ", ".join(item.versions)) for item in here if len(item.versions) > 1
        ],
    }
    return [MissingList(title, lines[:_LISTED], lines[_LISTED:]) for title, lines in lists.items() if lines]


def _name(cell: CellSummary) -> str:
    return f"{cell.entry} on {cell.column}"


def _rates(cells: list[CellSummary], hrefs: Hrefs, plan: Board | None) -> Lines:
    # Without a plan: a rate that half of the entries of a task have belongs to its grid.
    rows = Counter(cell.column for cell in cells)
    have = Counter((cell.column, rate.lr) for cell in cells for rate in cell.rates)
    grids: dict[str, list[float]] = {}
    for (column, rate), n in sorted(have.items()):
        if n > 1 and 2 * n >= rows[column]:
            grids.setdefault(column, []).append(rate)
    found = []
    for cell in cells:
        grid = plan.rates if plan is not None and _planned(cell, plan) else grids.get(cell.column, [])
        lacking = sorted(set(grid) - {rate.lr for rate in cell.rates})
        if lacking:
            text = ", ".join(f"{rate:g}" for rate in lacking)
            found.append(Line(_name(cell), text, hrefs[cell.entry, cell.column]))
    return found


def _ends(cells: list[CellSummary], hrefs: Hrefs) -> Lines:
    # Where no rate stands out, or every seed has solved it, a wider grid has nothing to find.
    return [
        Line(_name(cell), f"{cell.best:g}, its {cell.at_the_end}", hrefs[cell.entry, cell.column])
        for cell in cells
        if cell.learned and cell.at_the_end is not None and cell.solved != cell.n and cell.robustness != 1
    ]


def _seeds(cells: list[CellSummary], hrefs: Hrefs, plan: Board | None) -> Lines:
    # Without a plan: as many as most entries of the task have.
    usual: dict[str, Counter[int]] = {}
    for cell in cells:
        usual.setdefault(cell.column, Counter())[cell.n] += 1
    found = []
    for cell in cells:
        counts = usual[cell.column]
        wanted = max(counts, key=lambda n: (counts[n], n))
        if plan is not None and _planned(cell, plan):
            wanted = len({*plan.grid_seeds, *plan.best_seeds})
        if cell.n < wanted:
            found.append(Line(_name(cell), f"{cell.n} of {wanted}", hrefs[cell.entry, cell.column]))
    return found


def _planned(cell: CellSummary, plan: Board) -> bool:
    return cell.column in plan.tasks and cell.entry in plan.rows(cell.column)


def _broken(cells: list[CellSummary], hrefs: Hrefs, kind: str) -> Lines:
    counts = [(cell, sum(broken(run) == kind for run in cell.runs)) for cell in cells]
    return [
        Line(_name(cell), f"{n} of {plural(len(cell.runs), 'run')}", hrefs[cell.entry, cell.column])
        for cell, n in counts
        if n
    ]
