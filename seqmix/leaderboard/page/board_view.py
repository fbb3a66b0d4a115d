"""What the table of a board and the pages of its entries show."""

import re
from collections.abc import Mapping, Sequence
from types import MappingProxyType

from markupsafe import Markup, escape

from seqmix.leaderboard.boards.board import Board
from seqmix.leaderboard.boards.submissions import META, Submission
from seqmix.leaderboard.page import method, words
from seqmix.leaderboard.page.missing import absent_cells, missing_of
from seqmix.leaderboard.page.pages import Names
from seqmix.leaderboard.page.svg import strip
from seqmix.leaderboard.page.views import CellView, EntryView, Fact, Meta, TaskView, Value
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import broken
from seqmix.leaderboard.summary.summaries import BoardSummary, CellSummary, ColumnSummary, EntrySummary
from seqmix.leaderboard.tables.runs import circumstances, mixer_of

__all__ = ["BoardView", "broken_facts"]

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

    others = (("Parameters", words.PARAMETERS), ("State", "numbers kept at the training length"))
    method = method.BOARD

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
        self._ranked = sum(entry.rank is not None for entry in board.entries)
        names = Names("index", "data")
        self.tasks = [_task(folder, column, names.of(column.name)) for column in board.columns]
        self.entries = [self._entry(entry, names.of(entry.name), place) for place, entry in enumerate(board.entries)]
        self.cells = {(entry.name, task.name): self._cell(entry, task) for entry in self.entries for task in self.tasks}
        self.hrefs = {key: cell.href for key, cell in self.cells.items() if cell.href is not None}
        self.budget = self._sizes() if plan is None else _equal(plan)
        self.lede = self._lede()
        self.facts = self._facts()
        self.missing = missing_of(board, self.hrefs, plan)
        self.circumstances = circumstances(board.runs)

    def row(self, entry: EntryView) -> list[CellView]:
        """The cells of an entry, in the order of the tasks."""
        return [self.cells[entry.name, task.name] for task in self.tasks]

    def ranked(self, task: TaskView) -> list[CellView]:
        """The cells of a task that have runs, by rank."""
        cells = [self.cells[entry.name, task.name] for entry in self.entries]
        return sorted(
            (view for view in cells if view.cell is not None),
            key=lambda view: (view.summary.rank or 10**6, -view.summary.normalised, view.entry.place),
        )

    def _entry(self, entry: EntrySummary, slug: str, place: int) -> EntryView:
        found = [cell for column in self.board.columns if (cell := self.board.cells.get((entry.name, column.name)))]
        runs = [run for cell in found for run in cell.runs if run["status"] == "ok"]
        mixers = list(dict.fromkeys(mixer_of(run) for run in runs))
        layer, rank = words.layer_of(runs), words.NONE if entry.rank is None else str(entry.rank)
        badge, badge_text, meta = self._submitted(entry.submission)
        mean = words.fraction(entry.mean)
        return EntryView(
            name=entry.name,
            slug=slug,
            href=f"{self.folder}{slug}/index.html",
            number=place,
            place=place if entry.rank is not None else 10**6 + place,
            rank=rank,
            tied=entry.tied,
            mean=mean,
            mean_value=words.style(entry.mean),
            low=words.style(entry.interval[0]),
            high=words.style(entry.interval[1]),
            mean_hint=f"mean normalised score {mean}, {words.interval(entry.interval)}",
            partial="" if entry.n == len(self.board.columns) else f"{entry.n} of {len(self.board.columns)} tasks",
            badge=badge,
            badge_text=badge_text,
            meta=meta,
            # A long list of arguments is broken between them, not within a name.
            detail=Markup("") if layer == entry.name else escape(layer).replace("(", Markup("(<wbr>")),
            about=", ".join(mixers[:6]) + ("…" if len(mixers) > 6 else ""),
            words=" ".join([entry.name, *mixers])[:300],
            others=(_span([cell.params for cell in found]), _span([cell.state for cell in found])),
            facts=(
                Fact(f"{rank}{'=' if entry.tied else ''}", f"rank of {self._ranked} ranked"),
                Fact(mean, "mean score"),
                Fact(words.count(sum(len(cell.runs) for cell in found)), "runs"),
                *broken_facts([run for cell in found for run in cell.runs]),
            ),
        )

    def _submitted(self, name: str | None) -> tuple[str, str, tuple[Meta, ...]]:
        if name is None:
            return "", "", ()
        found = self._submissions.get(name)
        text = f"came with the submission {name}; "
        if found is None:
            return "self-reported", text + "its folder is not at hand", ()
        again = "none of its runs was made again" if found.check is None else "one of its runs was made again, "
        if found.check is not None:
            again += "with another result" if found.check["differences"] else "with the same result"
        return found.badge, text + again, _meta(found)

    def _cell(self, entry: EntryView, task: TaskView) -> CellView:
        cell = self.board.cells.get((entry.name, task.name))
        wanted = (entry.name, task.name) in self._absent
        if cell is None:
            return CellView(entry, task, None, wanted)
        tell = task.measure.tell
        lines = [
            f"{entry.name} on {task.name}",
            f"{tell(cell.median)} at rate {cell.best:g}, {words.plural(cell.n, 'seed')}"
            + (f", {tell(cell.low)} to {tell(cell.high)}" if cell.n > 1 else ""),
            words.interval(cell.interval, task.measure),
            f"{tell(cell.middle)}: median over {words.plural(len(cell.rates), 'rate')}",
        ]
        return CellView(
            entry,
            task,
            cell,
            wanted,
            href=f"{self.folder}{entry.slug}/{task.slug}.html",
            value=words.value("", cell.median).value,
            text=tell(cell.median),
            middle=words.value("", cell.middle).value,
            middle_text=tell(cell.middle),
            tint=words.style(cell.normalised),
            middle_tint=words.style(cell.middle_normalised),
            solved=_solved(cell),
            strip=_strip(cell, task.column),
            hint="\n".join(filter(None, lines)),
        )

    def _sizes(self) -> str:
        params = [cell.params for cell in self.board.cells.values() if cell.params is not None]
        return f"{_span(params).text} {words.PARAMETERS}" if params else ""

    def _lede(self) -> str:
        rates = {rate.lr for cell in self.board.cells.values() for rate in cell.rates}
        seeds = max((cell.n for cell in self.board.cells.values()), default=0)
        return (
            f"{words.plural(len(self.entries), 'entry', 'entries')} on {words.plural(len(self.tasks), 'task')}, "
            f"{self.budget}. {words.plural(len(rates), 'learning rate')}, up to {words.plural(seeds, 'seed')} at the "
            "best one. Every run counts, the diverged and the failed ones too, and every number leads to its runs."
        )

    def _facts(self) -> list[Fact]:
        runs = self.board.runs
        computing = words.duration(sum(run["cost"]["wall_seconds"] or 0.0 for run in runs))
        return [
            Fact(words.count(len(self.entries)), "entries"),
            Fact(words.count(len(self.tasks)), "tasks"),
            Fact(words.count(len(runs)), "runs"),
            Fact(computing, "of computing"),
            *broken_facts(runs),
            *([Fact(words.count(len(self._absent)), "cells not run", True)] if self._absent else []),
        ]


def broken_facts(runs: Sequence[Record]) -> list[Fact]:
    """How many of these diverged and failed, if any did."""
    bad = [told for run in runs if (told := broken(run))]
    return [Fact(words.count(bad.count(kind)), kind, True) for kind in ("diverged", "failed") if kind in bad]


def _task(folder: str, column: ColumnSummary, slug: str) -> TaskView:
    return TaskView(
        column,
        slug,
        href=f"{folder}{slug}.html",
        csv=f"{folder}data/{slug}.csv",
        measure=words.measure_of(column),
        validation=words.measure_of(column, "validation "),
    )


def _solved(cell: CellSummary) -> str:
    if not cell.learned:
        return f"{words.NONE}\N{NO-BREAK SPACE}chance" if cell.solved is not None else words.NONE
    return f"n={cell.n}" if cell.solved is None else f"{cell.solved}/{cell.n}"


def _meta(found: Submission) -> tuple[Meta, ...]:
    """What meta.yaml says, as far as it is of the right type; a link only to where a browser goes."""
    items = []
    for key, (kind, _) in META.items():
        value = found.meta.get(key)
        if not isinstance(value, kind) or not value:
            continue
        text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        link = key == "url" and re.fullmatch(r"https?://\S+", text) is not None
        items.append(Meta(key.capitalize() if key != "url" else "URL", text, link))
    return tuple(items)


def _equal(plan: Board) -> str:
    amount = plan.budget.amount
    return (
        f"equal {plan.budget.kind.replace('_', ' ')} ({amount:,.0f})" if amount < 1e9 else f"equal FLOPs ({amount:.3g})"
    )


def _span(numbers: Sequence[float | None]) -> Value:
    known = [number for number in numbers if number is not None]
    if not known:
        return words.value(words.NONE, None)
    low, high = words.count(min(known)), words.count(max(known))
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
