"""What can be said about a handful of runs."""

import functools
import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from seqmix._measures import MEASURES, named, of_text
from seqmix.leaderboard.records.schema import Record

__all__ = [
    "Criterion",
    "Spread",
    "accuracy",
    "best_learning_rate",
    "bits_per_byte",
    "bootstrap_interval",
    "bootstrap_rows",
    "broken",
    "by_length",
    "comparable",
    "is_text",
    "learning_rate",
    "normalised",
    "solved",
    "spread",
    "unvalidated",
    "validation_point",
    "wilson_interval",
]

_ASKED = tuple(measure.key for measure in MEASURES if measure.kind == "share")  # what a criterion can be about


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """The score interval of a proportion, 95 % by default (Wilson 1927); (0, 1) of no trials.

    Example:
        >>> [round(bound, 3) for bound in wilson_interval(3, 3)]
        [0.439, 1.0]
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"wilson_interval: successes must be in [0, trials = {trials}], got {successes}")
    if trials == 0:
        return 0.0, 1.0
    share, z2 = successes / trials, z * z
    middle = (share + z2 / (2 * trials)) / (1 + z2 / trials)
    half = z / (1 + z2 / trials) * math.sqrt(share * (1 - share) / trials + z2 / (4 * trials * trials))
    # At 0 and at n the formula is exact, its rounding is not.
    return (0.0 if successes == 0 else middle - half), (1.0 if successes == trials else middle + half)


def bootstrap_interval(
    values: Sequence[float],
    statistic: Callable[..., np.ndarray] = np.median,
    *,
    draws: int = 10_000,
    level: float = 0.95,
    seed: int = 0,
) -> tuple[float, float]:
    """Percentile bootstrap interval of `statistic(array, axis=1)` over `values`; the same at every call."""
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all():
        raise ValueError(f"bootstrap_interval: values must be one or more finite numbers, got {values!r:.80}")
    if not 0 < level < 1:
        raise ValueError(f"bootstrap_interval: level must be in (0, 1), got {level!r}")
    rows = bootstrap_rows(data.size, draws, seed)
    low, high = np.quantile(statistic(data[rows], axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@functools.lru_cache(maxsize=64)
def bootstrap_rows(n: int, draws: int = 10_000, seed: int = 0) -> np.ndarray:
    """Which of n values each draw takes, (draws, n): the same for everything that has n values."""
    rows = np.random.default_rng(seed).integers(n, size=(draws, n))
    rows.flags.writeable = False
    return rows


def normalised(value: float, chance: float | None, *, text: bool = False) -> float:
    """0 for guessing and below, 1 for all right: (accuracy - chance) / (1 - chance).

    Bits per byte count as 1 - bits / 8: a byte that is guessed costs 8 bits.

    Example:
        >>> normalised(0.75, 0.5), normalised(2.0, None, text=True), normalised(0.1, 0.5)
        (0.5, 0.75, 0.0)
    """
    share = 1 - value / 8 if text else (value - (chance or 0.0)) / (1 - (chance or 0.0))
    return max(0.0, share)


def broken(record: Record) -> str | None:
    """`failed` or `diverged`, None for a run that came to its end."""
    if record["status"] != "ok":
        return "failed"
    return "diverged" if record["result"]["diverged"] else None


def learning_rate(record: Record) -> float:
    """That of a run; of one that failed, the one of its config."""
    known = record["training"]["lr"]
    if known is not None:
        return float(known)
    entry = record["identity"]["settings"].get("optimizer")
    return float(entry["lr"]) if isinstance(entry, dict) and isinstance(entry.get("lr"), int | float) else 0.0


def validation_point(record: Record) -> dict[str, float | None] | None:
    """The validation that speaks for a run: of the weights that were tested; None if there was none."""
    point = record["result"]["validation"]
    if point is None and record["result"]["curve"]:
        point = record["result"]["curve"][-1]
    return point


@dataclass(frozen=True)
class Spread:
    """Median and range of n values, with the bootstrap interval of the median."""

    n: int
    median: float
    low: float
    high: float
    interval: tuple[float, float]


def spread(values: Iterable[float]) -> Spread:
    """`Spread` of one or more finite numbers."""
    data = [float(value) for value in values]
    interval = bootstrap_interval(data)
    return Spread(len(data), float(np.median(data)), min(data), max(data), interval)


@dataclass(frozen=True)
class Criterion:
    """When a run counts as solved: `16:0.99` at length 16, `2x:0.95` at twice the training length.

    `length` is a length or the name of a test set; `measure` is `last`, `seq`, `tok`, `free_seq`, `free_tok` or
    `macro`; None for the one that decides the task.
    """

    length: int | str
    threshold: float
    relative: bool = False
    measure: str | None = None

    @classmethod
    def parse(cls, text: str) -> "Criterion":
        """From `LENGTH:THRESHOLD`, with `x` after a length in training lengths and a measure before, as in `last:80:1`.

        Test sets with names of their own are written as those names.
        """
        match = re.fullmatch(rf"(?:({'|'.join(_ASKED)}):)?([^:\s]+):(\d*\.?\d+)", text)
        wrong = f"expected LENGTH:ACCURACY such as 16:0.99, 2x:0.95 or last:80:0.95, got {text!r}"
        if match is None or not 0 < float(match[3]) <= 1:
            raise ValueError(wrong)
        number = re.fullmatch(r"([1-9]\d*)(x?)", match[2])
        if number is None:
            if len(match[2]) < 2 or match[2].isdecimal() or match[2] in {m.key for m in MEASURES if m.decides}:
                raise ValueError(wrong)
            return cls(match[2], float(match[3]), False, match[1])
        return cls(int(number[1]), float(match[3]), bool(number[2]), match[1])

    def length_of(self, record: Record) -> int | str:
        """The length that it is about, for this record's task."""
        trained = record["result"]["train_length"]
        if self.relative and trained is None:
            raise ValueError(f"criterion {self}: task {record['identity']['task']!r} has no training length")
        return int(self.length) * trained if self.relative else self.length

    def met_by(self, record: Record) -> bool:
        """Whether the run got there; a diverged or failed one did not.

        Raises:
            ValueError: the run was not tested at this length.
        """
        if broken(record):
            return False
        length = self.length_of(record)
        value = accuracy(record, length, self.measure)
        if value is None:
            tested = ", ".join(sorted(record["result"]["metrics"], key=by_length))
            raise ValueError(f"criterion {self}: run {record['id']} was tested at {tested}, not at length {length}")
        return value >= self.threshold

    def __str__(self) -> str:
        measure = f"{self.measure}:" if self.measure else ""
        return f"{measure}{self.length}{'x' * self.relative}:{self.threshold:g}"


def by_length(name: str) -> tuple[bool, int]:
    """A key that sorts names of test sets: lengths by number, then the others as they stand."""
    return not name.isdecimal(), int(name) if name.isdecimal() else 0


def accuracy(record: Record, length: int | str, measure: str | None = None) -> float | None:
    """Test accuracy of a run at a length or on a set by a measure, by default the one that decides its task.

    Diverged and failed runs stay in every statistic, with accuracy 0; None where a run was not tested.
    """
    if broken(record):
        return 0.0
    row = record["result"]["metrics"].get(str(length))
    measure = measure or named(record["result"]["metric"]).key
    if row is not None and measure not in row:
        raise ValueError(f"run {record['id']}: task {record['identity']['task']!r} has no measure {measure!r}")
    return None if row is None else float(row[measure])


def solved(records: Sequence[Record], criteria: Sequence[Criterion]) -> tuple[int, tuple[float, float]]:
    """How many runs meet all criteria, and the Wilson interval of their share."""
    count = sum(all(criterion.met_by(record) for criterion in criteria) for record in records)
    return count, wilson_interval(count, len(records))


def best_learning_rate(rates: dict[float, list[Record]]) -> float:
    """The rate with the best median of validation accuracy over the seeds that all have; test data is not looked at.

    Of text it is the smallest median of bits per byte. Ties go to the smaller median of the last validation loss, then
    to the smaller rate. A run that was never validated counts as the worst there is, as one that diverged does; what
    shows the choice has to say so, see `unvalidated`.
    """
    if len(rates) == 1:
        return next(iter(rates))

    worst = -math.inf if any(is_text(record) for records in rates.values() for record in records) else 0.0

    compared = comparable(rates)

    def score(rate: float) -> tuple[float, float, float]:
        accuracies, losses = zip(*(_validation(record, worst) for record in compared[rate]), strict=True)
        return -float(np.median(accuracies)), float(np.median(losses)), rate

    return min(rates, key=score)


def comparable(rates: dict[float, list[Record]]) -> dict[float, list[Record]]:
    """The runs of the seeds that all rates have in common; all runs if there is no such seed.

    More seeds are run where a first look was good: what they say of that rate, no other rate was asked.
    """
    common = set.intersection(*({run["identity"]["seed"] for run in runs} for runs in rates.values()))
    if not common:
        return rates
    return {rate: [run for run in runs if run["identity"]["seed"] in common] for rate, runs in rates.items()}


def unvalidated(rates: dict[float, list[Record]]) -> int:
    """How many runs a choice among these rates had to count as the worst, since they were never validated."""
    compared = comparable(rates).values() if len(rates) > 1 else ()
    return sum(not broken(run) and validation_point(run) is None for runs in compared for run in runs)


def is_text(record: Record) -> bool:
    """Whether its task is measured in bits per byte."""
    return of_text(record["result"]["metric"])


def bits_per_byte(record: Record, length: int | str) -> float | None:
    """Test bits per byte of a run on text; infinite if it diverged or failed, None where it was not tested."""
    if broken(record):
        return math.inf
    row = record["result"]["metrics"].get(str(length))
    return None if row is None else float(row["bpb"])


def _validation(record: Record, worst: float) -> tuple[float, float]:
    point = validation_point(record)
    if broken(record) or point is None:
        return worst, math.inf
    loss, best = point["loss"], point["bpb" if is_text(record) else "accuracy"]
    assert best is not None  # only in a run that diverged
    return float(-best if is_text(record) else best), math.inf if loss is None else float(loss)
