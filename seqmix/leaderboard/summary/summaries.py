"""What `aggregate` makes of records: boards with entries, columns and cells, down to rates and seeds.

Where a number is a result it is an accuracy by the task's own measure, or bits per byte; `normalised` ones are in
[0, 1], 0 for guessing (`seqmix.leaderboard.summary.statistics.normalised`). Runs that failed or diverged stay in and
count, with accuracy 0 or infinite bits per byte.
"""

from dataclasses import dataclass, field

from seqmix._measures import of_text
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.ranking import Interval

__all__ = [
    "FAR",
    "LEARNED",
    "MULTIPLES",
    "NEAR_BEST",
    "SOLVED",
    "BoardSummary",
    "CellSummary",
    "ColumnSummary",
    "EntrySummary",
    "RateSummary",
    "SeedSummary",
]

SOLVED, FAR = 0.99, 0.9  # accuracy at the training length, and at four times it or as the longest
LEARNED = 0.1  # mean normalised result below which a cell has learned nothing: there is no best rate and no rank
NEAR_BEST = 0.05  # a rate is near the best: 5 points of accuracy, or 5 % of the bits
MULTIPLES = (1, 2, 4, 8)  # of the training length, in the score of length generalisation


@dataclass(frozen=True)
class SeedSummary:
    """A run at the chosen rate: test result at home, whether it is solved (None on text), `failed` or `diverged`."""

    seed: int
    value: float
    solved: bool | None
    broken: str | None
    run: Record = field(repr=False)


@dataclass(frozen=True)
class RateSummary:
    """A learning rate: medians over its runs, of validation (None without any) and of test at home."""

    lr: float
    validation: float | None
    test: float
    runs: list[Record] = field(repr=False)


@dataclass
class CellSummary:
    """An entry on a task. Values are accuracies by the task's own measure, or bits per byte.

    Attributes:
        entry, column: names of row and task.
        runs: all of them, in the order of the records.
        rates: the whole grid, smallest rate first: the learning-rate curve.
        best: the rate that validation chose.
        seeds: runs at that rate; `n` of them, `solved` solved it, with a Wilson interval (None on text).
        far: of the seeds, how many have 0.9 at four times the training length; None where that was not tested.
        median, low, high, interval: of the seeds at home, with the bootstrap interval of the median; a single seed has
            none.
        mean, normalised, normalised_interval: mean of the seeds, as it is and normalised; the last decides ranks.
        middle, middle_normalised: median over the grid of `RateSummary.test`: what a rate picked blindly gives.
        robustness: share of the grid whose validation is within 5 points (5 % on text) of the best, by the seeds that
            all rates have in common; None of one rate, and where these seeds or the cell learned nothing.
        by_length: (length, median, values of the seeds) at each length that was tested.
        score, score_lengths: mean normalised result over 1, 2, 4 and 8 times the training length, and those of them
            that were tested; None for the first alone.
        longest: the longest tested length with a median accuracy of 0.9, at it and at every shorter one; None if none.
        steps_to_solve: median steps to a validation accuracy of 0.99; None if half of the seeds never had it.
        params, params_total: parameters as budgets count them (`sizes.counted_parameters`), and all of them.
        state, state_bytes, flops_per_token: of the model, numbers and bytes at home.
        seconds, cpu_seconds, tokens_per_second, decode_ms: medians over the seeds; None where unknown.
        unvalidated: runs that the choice of the rate had to count as the worst: they were never validated.
        variants: how many different configs its runs have, learning rate and seed aside; more than 1 is a warning.
        rank, tied: within the column, see `seqmix.leaderboard.summary.ranking.ranks`; None of what learned nothing.
    """

    entry: str
    column: str
    runs: list[Record] = field(repr=False)
    rates: list[RateSummary] = field(repr=False)
    best: float
    seeds: list[SeedSummary] = field(repr=False)
    n: int
    solved: int | None
    wilson: Interval | None
    far: int | None
    median: float
    low: float
    high: float
    interval: Interval | None
    mean: float
    normalised: float
    normalised_interval: Interval | None
    middle: float
    middle_normalised: float
    robustness: float | None
    by_length: list[tuple[int, float, tuple[float, ...]]] = field(repr=False)
    score: float | None
    score_lengths: tuple[int, ...]
    longest: int | None
    steps_to_solve: float | None
    params: int | None
    params_total: int | None
    state: int | None
    state_bytes: int | None
    flops_per_token: float | None
    seconds: float | None
    cpu_seconds: float | None
    tokens_per_second: float | None
    decode_ms: float | None
    unvalidated: int
    variants: int
    rank: int | None = None
    tied: bool = False

    @property
    def learned(self) -> bool:
        """Whether the chosen rate is better than guessing, in the mean over its seeds, or solved the task once."""
        return self.normalised >= LEARNED or bool(self.solved)

    @property
    def at_the_end(self) -> str | None:
        """`smallest` or `largest` if the best rate is at an end of the grid, beyond which a better one may lie."""
        if len(self.rates) < 2:
            return None
        return {self.rates[0].lr: "smallest", self.rates[-1].lr: "largest"}.get(self.best)


@dataclass(frozen=True)
class ColumnSummary:
    """A task of a board.

    Attributes:
        name, task, kwargs: of the column, the registered task and its arguments.
        metric, chance, train_length: the measure that decides, as in records.
        home: the test set that decides: the training length, or the first one.
        versions: of the test sets; more than one is a warning: results are not of the same data.
        lengths: those that were tested.
    """

    name: str
    task: str
    kwargs: dict[str, object]
    metric: str
    chance: float | None
    train_length: int | None
    home: str
    versions: tuple[str, ...]
    lengths: tuple[int, ...]

    @property
    def text(self) -> bool:
        """Whether it is measured in bits per byte, where less is better."""
        return of_text(self.metric)


@dataclass(frozen=True)
class EntrySummary:
    """A row of a board.

    Attributes:
        name, submission: of the row, `SUBMISSION/ENTRY` for one that came with a submission; None for our own.
        n: columns in which it has a cell.
        mean, interval: mean normalised score over those columns, with its bootstrap interval; a cell of a single seed
            enters the interval with everything from 0 to 1.
        rank, tied: by the mean; None for a row that lacks a column.
    """

    name: str
    submission: str | None
    n: int
    mean: float
    interval: Interval
    rank: int | None
    tied: bool


@dataclass(frozen=True)
class BoardSummary:
    """One board; ranks are within it, never across boards.

    Attributes:
        name: of the board; `""` for runs without one, whose rows are configs and whose columns are tasks.
        entries: rows, the best first, those without a rank last.
        columns: tasks, in the order of the records.
        cells: by (entry, column).
        runs: the last attempt of every run.
        unmeasured: columns in which no run came to an end; they have no cells.
    """

    name: str
    entries: list[EntrySummary]
    columns: list[ColumnSummary]
    cells: dict[tuple[str, str], CellSummary] = field(repr=False)
    runs: list[Record] = field(repr=False)
    unmeasured: tuple[str, ...] = ()
