"""What pages show, as types: every view is made whole in one place, and templates read its fields.

Names are those of the pages: a board has entries (rows), tasks (columns) and cells; a `Column` says of a table's
column its title and how the value in a row comes about.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from markupsafe import Markup

from seqmix.leaderboard.page.plots import Measure
from seqmix.leaderboard.summary.summaries import CellSummary, ColumnSummary

__all__ = ["CellView", "Column", "EntryView", "Fact", "Meta", "Mini", "PlotView", "TaskView", "Value"]

T = TypeVar("T")


@dataclass(frozen=True)
class Value:
    """A cell of a table: what it shows, what it is sorted by, what the pointer tells."""

    text: str
    value: str = ""
    hint: str = ""


@dataclass(frozen=True)
class Column(Generic[T]):
    """A column of a table: its head, the direction that its first click sorts in, and its value in a row."""

    title: str
    first: str  # "up" or "down"
    hint: str
    value: Callable[[T], Value]


@dataclass(frozen=True)
class Fact:
    """A number with what it counts."""

    value: str
    text: str
    bad: bool = False
    hint: str = ""


@dataclass(frozen=True)
class Meta:
    """A title with its text: how a number is computed, what a submission says of itself."""

    title: str
    text: str
    link: bool = False


@dataclass(frozen=True)
class PlotView:
    """A plot with its caption."""

    title: str
    text: str
    svg: Markup


@dataclass(frozen=True)
class TaskView:
    """A column of a board."""

    column: ColumnSummary
    slug: str
    href: str
    csv: str
    measure: Measure  # of test data
    validation: Measure

    @property
    def name(self) -> str:
        """As the board calls it."""
        return self.column.name

    @property
    def lower(self) -> bool:
        """Whether less is better."""
        return self.column.text

    @property
    def good(self) -> str:
        """The direction in which results are sorted first."""
        return "up" if self.lower else "down"

    @property
    def lengths(self) -> tuple[int | str, ...]:
        """Test lengths, or the one test set that has a name."""
        return self.column.lengths or ((self.column.home,) if self.column.home else ())


@dataclass(frozen=True)
class EntryView:
    """A row of a board.

    Attributes:
        number: its colour and shape in plots.
        place: sorts entries without a rank behind the others.
        mean, low, high: the mean score as text, and with its interval as numbers of a style sheet.
        partial: how many tasks it has, if not all.
        badge, badge_text, meta: of the submission that it came with.
        detail, about, words: its layer, its layers, and what a filter finds it by.
    """

    name: str
    slug: str
    href: str
    number: int
    place: int
    rank: str
    tied: bool
    mean: str
    mean_value: str
    low: str
    high: str
    mean_hint: str
    partial: str
    badge: str
    badge_text: str
    meta: tuple[Meta, ...]
    detail: str
    about: str
    words: str
    others: tuple[Value, ...]  # beside the tasks: parameters and state
    facts: tuple[Fact, ...]


@dataclass(frozen=True)
class CellView:
    """An entry on a task; `cell` and `href` are None where it has no run, `wanted` says whether it should have one."""

    entry: EntryView
    task: TaskView
    cell: CellSummary | None
    wanted: bool
    href: str | None = None
    value: str = ""
    text: str = ""
    middle: str = ""
    middle_text: str = ""
    tint: str = ""
    middle_tint: str = ""
    solved: str = ""
    strip: Markup | None = None
    hint: str = ""

    @property
    def summary(self) -> CellSummary:
        """The statistics of a cell that has runs."""
        assert self.cell is not None
        return self.cell

    @property
    def rank(self) -> Value:
        """Its rank within the task; a dash for what learned nothing."""
        rank = self.summary.rank
        return Value("–", "", "not learned: no better than guessing") if rank is None else Value(str(rank), str(rank))

    @property
    def page(self) -> str:
        """Where the runs of a cell that has some are."""
        assert self.href is not None
        return self.href


@dataclass(frozen=True)
class Mini:
    """A small plot of one entry, with a line below."""

    view: CellView
    series: int
    svg: Markup
    text: str
