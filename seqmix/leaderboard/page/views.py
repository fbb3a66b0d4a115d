"""What the table of a board and the pages of its entries show."""

import re
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from markupsafe import Markup

from seqmix.leaderboard.boards.board import Board
from seqmix.leaderboard.boards.submissions import META, Submission
from seqmix.leaderboard.page import method, words
from seqmix.leaderboard.page.missing import absent_cells, missing_of
from seqmix.leaderboard.page.pages import Names
from seqmix.leaderboard.page.svg import strip
from seqmix.leaderboard.summary.statistics import broken
from seqmix.leaderboard.summary.summaries import BoardSummary, CellSummary, ColumnSummary, EntrySummary
from seqmix.leaderboard.tables.runs import circumstances, mixer_of

__all__ = ["BoardView", "View"]

View = dict[str, Any]

# Seeds of one cell that its strip shows.
_SEEDS = 24


class BoardView:
    """One board: where its pages are, and what its table says.

    Args:
        board: the statistics.
        folder: of its pages, such as `equal-parameters/`.
        first: its table is the page that the site opens with.
        plan: what it was meant to be, if that is known.
        submissions: folders of submissions that are at hand, by their names.
    """

    def __init__(
        self,
        board: BoardSummary,
        folder: str,
        *,
        first: bool,
        plan: Board | None = None,
        submissions: Mapping[str, Submission] = MappingProxyType({}),
    ) -> None:
        self.board, self.folder, self.plan, self._submissions = board, folder, plan, submissions
        self._absent = set(absent_cells(board, plan))
        self.name = board.name or "Runs without a board"
        self.href = "index.html" if first else f"{folder}index.html"
        self.csv, self.jsonl = f"{folder}data/board.csv", f"{folder}data/runs.jsonl"
        names = Names("index", "data")
        tasks = [(column, names.of(column.name)) for column in board.columns]
        self.entries = [self._entry(entry, names.of(entry.name), place) for place, entry in enumerate(board.entries)]
        self.tasks = [self._task(column, slug) for column, slug in tasks]
        self.cells = {
            (entry["name"], task["name"]): self._cell(entry, task) for entry in self.entries for task in self.tasks
        }
        self.hrefs = {key: cell["href"] for key, cell in self.cells.items() if cell["href"]}
        for entry in self.entries:
            self._complete(entry)
        self.others = [("Parameters", words.PARAMETERS), ("State", "numbers kept at the training length")]
        self.budget = self._sizes() if plan is None else _equal(plan)
        self.lede = self._lede()
        self.facts = self._facts()
        self.missing = missing_of(board, self.hrefs, plan)
        self.method = method.BOARD
        self.circumstances = circumstances(board.runs)

    def _entry(self, entry: EntrySummary, slug: str, place: int) -> View:
        return {
            "name": entry.name,
            "slug": slug,
            "href": f"{self.folder}{slug}/index.html",
            "number": place,
            "place": place if entry.rank is not None else 10**6 + place,
            "rank": words.NONE if entry.rank is None else str(entry.rank),
            "tied": entry.tied,
            "mean": words.fraction(entry.mean),
            "mean_value": words.style(entry.mean),
            "low": words.style(entry.interval[0]),
            "high": words.style(entry.interval[1]),
            "mean_hint": f"mean normalised score {words.fraction(entry.mean)}, {words.interval(entry.interval)}",
            "partial": "" if entry.n == len(self.board.columns) else f"{entry.n} of {len(self.board.columns)} tasks",
        } | self._submitted(entry.submission)

    def _submitted(self, name: str | None) -> View:
        if name is None:
            return {"badge": "", "badge_text": "", "meta": []}
        found = self._submissions.get(name)
        text = f"came with the submission {name}; "
        if found is None:
            return {"badge": "self-reported", "badge_text": text + "its folder is not at hand", "meta": []}
        again = "none of its runs was made again" if found.check is None else "one of its runs was made again, "
        if found.check is not None:
            again += "with another result" if found.check["differences"] else "with the same result"
        return {"badge": found.badge, "badge_text": text + again, "meta": _meta(found)}

    def _task(self, column: ColumnSummary, slug: str) -> View:
        return {
            "name": column.name,
            "label": column.name,
            "slug": slug,
            "href": f"{self.folder}{slug}.html",
            "csv": f"{self.folder}data/{slug}.csv",
            "lower": column.text,
            "column": column,
            "measure": words.measure_of(column),
            "validation": words.measure_of(column, "validation "),
        }

    def _cell(self, entry: View, task: View) -> View:
        cell = self.board.cells.get((entry["name"], task["name"]))
        view = {"cell": cell, "entry": entry, "task": task, "label": task["label"], "href": None}
        view["wanted"] = (entry["name"], task["name"]) in self._absent
        if cell is None:
            return view
        tell = task["measure"].tell
        bounds = words.interval(cell.interval, task["measure"])
        lines = [
            f"{entry['name']} on {task['label']}",
            f"{tell(cell.median)} at rate {cell.best:g}, {words.plural(cell.n, 'seed')}"
            + (f", {tell(cell.low)} to {tell(cell.high)}" if cell.n > 1 else ""),
            bounds,
            f"{tell(cell.middle)}: median over {words.plural(len(cell.rates), 'rate')}",
        ]
        return view | {
            "href": f"{self.folder}{entry['slug']}/{task['slug']}.html",
            "value": words.value("", cell.median)["value"],
            "text": tell(cell.median),
            "middle": words.value("", cell.middle)["value"],
            "middle_text": tell(cell.middle),
            "tint": words.style(cell.normalised),
            "middle_tint": words.style(cell.middle_normalised),
            "solved": f"n={cell.n}" if cell.solved is None else f"{cell.solved}/{cell.n}",
            "strip": _strip(cell, task["column"]),
            "hint": "\n".join(filter(None, lines)),
        }

    def _complete(self, entry: View) -> None:
        cells = [self.cells[entry["name"], task["name"]] for task in self.tasks]
        found: list[CellSummary] = [cell["cell"] for cell in cells if cell["cell"]]
        runs = [run for cell in found for run in cell.runs if run["status"] == "ok"]
        mixers = list(dict.fromkeys(mixer_of(run) for run in runs))
        layer = words.layer_of(runs)
        entry["detail"] = "" if layer == entry["name"] else layer
        entry["words"] = " ".join([entry["name"], *mixers])[:300]
        entry["about"] = ", ".join(mixers[:6]) + ("…" if len(mixers) > 6 else "")
        entry["cells"] = cells
        entry["others"] = [
            _span([cell.params for cell in found], words.count),
            _span([cell.state for cell in found], words.count),
        ]
        bad = [told for cell in found for run in cell.runs if (told := broken(run))]
        entry["facts"] = [
            _fact(f"{entry['rank']}{'=' if entry['tied'] else ''}", f"rank of {len(self.board.entries)}"),
            _fact(entry["mean"], "mean score"),
            _fact(words.count(sum(len(cell.runs) for cell in found)), "runs"),
            *(_fact(words.count(bad.count(kind)), kind, True) for kind in ("diverged", "failed") if kind in bad),
        ]

    def _sizes(self) -> str:
        params = [cell.params for cell in self.board.cells.values() if cell.params is not None]
        return f"{_span(params, words.count)['text']} {words.PARAMETERS}" if params else ""

    def _lede(self) -> str:
        rates = {rate.lr for cell in self.board.cells.values() for rate in cell.rates}
        seeds = max((cell.n for cell in self.board.cells.values()), default=0)
        return (
            f"{words.plural(len(self.entries), 'entry', 'entries')} on {words.plural(len(self.tasks), 'task')}, "
            f"{self.budget}. {words.plural(len(rates), 'learning rate')}, up to {words.plural(seeds, 'seed')} at the "
            "best one. Every run counts, the diverged and the failed ones too, and every number leads to its runs."
        )

    def _facts(self) -> list[View]:
        runs = self.board.runs
        bad = [told for run in runs if (told := broken(run))]
        facts = [_fact(words.count(len(self.entries)), "entries"), _fact(words.count(len(self.tasks)), "tasks")]
        facts.append(_fact(words.count(len(runs)), "runs"))
        facts.append(_fact(words.duration(sum(run["cost"]["wall_seconds"] or 0.0 for run in runs)), "of computing"))
        facts += [_fact(words.count(bad.count(kind)), kind, True) for kind in ("diverged", "failed") if kind in bad]
        absent = len(self._absent)
        return [*facts, *([_fact(words.count(absent), "cells not run", True)] if absent else [])]


def _meta(found: Submission) -> list[View]:
    """What meta.yaml says, as far as it is of the right type; a link only to where a browser goes."""
    items = []
    for key, (kind, _) in META.items():
        value = found.meta.get(key)
        if not isinstance(value, kind) or not value:
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        link = key == "url" and re.fullmatch(r"https?://\S+", text) is not None
        items.append({"title": key.capitalize() if key != "url" else "URL", "text": text, "link": link})
    return items


def _equal(plan: Board) -> str:
    amount = plan.budget.amount
    return (
        f"equal {plan.budget.kind.replace('_', ' ')} ({amount:,.0f})" if amount < 1e9 else f"equal FLOPs ({amount:.3g})"
    )


def _fact(number: str, text: str, bad: bool = False) -> View:
    return {"value": number, "text": text, "bad": bad}


def _span(numbers: list[Any], tell: Any) -> View:
    known = [number for number in numbers if number is not None]
    if not known:
        return words.value(words.NONE, None)
    low, high = tell(min(known)), tell(max(known))
    return words.value(low if low == high else f"{low} to {high}", max(known))


def _strip(cell: CellSummary, column: ColumnSummary) -> Markup:
    # Bits per byte from 8 down to 0, so that right is good in every cell.
    def place(result: float) -> float:
        return 1 - result / 8 if column.text else result

    kinds = ["x" if seed.broken else "u" if seed.solved is False else "k" for seed in cell.seeds]
    values = [(place(seed.value), kind) for seed, kind in zip(cell.seeds, kinds, strict=True)]
    told = ", ".join(f"{seed.value:.3f}" for seed in cell.seeds[:_SEEDS])
    middle = place(cell.middle) if len(cell.rates) > 1 else None
    return strip(values[:_SEEDS], middle, f"seeds {told}")
