"""One entry on one task: its learning rates, the seeds at the best of them, and what they say."""

import math
from collections.abc import Sequence

import numpy as np

from seqmix._measures import named
from seqmix.leaderboard.cost.sizes import counted_parameters
from seqmix.leaderboard.records.schema import Record, without_rate_and_seed
from seqmix.leaderboard.summary.ranking import mean_interval, median_interval
from seqmix.leaderboard.summary.statistics import (
    best_learning_rate,
    broken,
    comparable,
    learning_rate,
    normalised,
    unvalidated,
    validation_point,
    wilson_interval,
)
from seqmix.leaderboard.summary.summaries import (
    FAR,
    LEARNED,
    MULTIPLES,
    NEAR_BEST,
    SOLVED,
    CellSummary,
    ColumnSummary,
    RateSummary,
    SeedSummary,
)

__all__ = ["cell_of"]

_Lengths = Sequence[tuple[int, float, tuple[float, ...]]]


def cell_of(entry: str, column: ColumnSummary, runs: list[Record]) -> CellSummary:
    """The summary of these runs."""
    by_rate: dict[float, list[Record]] = {}
    for run in runs:
        by_rate.setdefault(learning_rate(run), []).append(run)
    by_rate = {rate: sorted(by_rate[rate], key=lambda run: run["identity"]["seed"]) for rate in sorted(by_rate)}
    best = best_learning_rate(by_rate)
    rates = [_rate(rate, some, column) for rate, some in by_rate.items()]
    chosen = by_rate[best]
    values = [_at_home(run, column) for run in chosen]
    seeds = [
        SeedSummary(
            run["identity"]["seed"],
            value,
            None if column.text else not broken(run) and value >= SOLVED,
            broken(run),
            run,
        )
        for run, value in zip(chosen, values, strict=True)
    ]
    solved = None if column.text else sum(bool(seed.solved) for seed in seeds)
    scores = [normalised(value, column.chance, text=column.text) for value in values]
    middle = float(np.median([rate.test for rate in rates]))
    ends = [run for run in chosen if run["status"] == "ok"] or [run for run in runs if run["status"] == "ok"]
    size = ends[0]["size"] if ends else {}
    by_length = _by_length(chosen, column)
    score, score_lengths = _length_score(by_length, column)
    cell = CellSummary(
        entry=entry,
        column=column.name,
        runs=runs,
        rates=rates,
        best=best,
        seeds=seeds,
        n=len(seeds),
        solved=solved,
        wilson=None if solved is None else wilson_interval(solved, len(seeds)),
        far=_far(chosen, column),
        median=float(np.median(values)),
        low=min(values),
        high=max(values),
        interval=median_interval(values),
        mean=float(np.mean(values)),
        normalised=float(np.mean(scores)),
        normalised_interval=mean_interval([scores]) if len(scores) > 1 else None,
        middle=middle,
        middle_normalised=normalised(middle, column.chance, text=column.text),
        robustness=_robustness([_rate(rate, some, column) for rate, some in comparable(by_rate).items()], column),
        by_length=by_length,
        score=score,
        score_lengths=score_lengths,
        longest=None if column.text else _longest(by_length),
        steps_to_solve=_steps_to_solve(chosen, column),
        params=counted_parameters(ends[0]) if ends else None,
        params_total=size.get("params_total"),
        state=(size.get("state_size") or {}).get(column.home),
        state_bytes=(size.get("state_bytes") or {}).get(column.home),
        flops_per_token=size.get("flops_per_token"),
        unvalidated=unvalidated(by_rate),
        variants=len({without_rate_and_seed(run["identity"]["settings"]) for run in runs}),
        seconds=_median_cost(chosen, "train_seconds"),
        cpu_seconds=_median_cost(chosen, "cpu_seconds"),
        tokens_per_second=_median_cost(chosen, "tokens_per_second"),
        decode_ms=_median_cost(chosen, "decode_ms"),
    )
    if not cell.learned:
        cell.robustness = None
    return cell


def _at_home(run: Record, column: ColumnSummary) -> float:
    """Test result at home; where a column has data of several kinds, which it warns of, at the run's own length."""
    found = _value(run, column, column.home)
    if math.isnan(found):
        metrics = run["result"]["metrics"]
        own = str(run["result"]["train_length"])
        found = _value(run, column, own if own in metrics else next(iter(metrics)))
    return found


def _value(run: Record, column: ColumnSummary, name: str) -> float:
    """Test result on a set: as bad as can be if the run broke, NaN if it was not tested there."""
    if broken(run):
        return math.inf if column.text else 0.0
    row = run["result"]["metrics"].get(name)
    return math.nan if row is None else float(row[named(column.metric).key])


def _rate(rate: float, runs: list[Record], column: ColumnSummary) -> RateSummary:
    worst, measure = (math.inf, "bpb") if column.text else (0.0, "accuracy")
    points = [{measure: worst} if broken(run) else validation_point(run) for run in runs]
    found = [float(value) for point in points if point is not None and (value := point[measure]) is not None]
    tests = [_at_home(run, column) for run in runs]
    return RateSummary(rate, float(np.median(found)) if found else None, float(np.median(tests)), runs)


def _robustness(rates: Sequence[RateSummary], column: ColumnSummary) -> float | None:
    found = [math.nan if rate.validation is None else rate.validation for rate in rates]
    if len(found) < 2 or all(map(math.isnan, found)):
        return None
    best = (min if column.text else max)(value for value in found if not math.isnan(value))
    if normalised(best, column.chance, text=column.text) < LEARNED:  # at chance every rate is as good as the best
        return None
    if column.text:
        limit = best * (1 + NEAR_BEST)
        near = [value <= limit and math.isfinite(value) for value in found]
    else:
        # 0.95 and 0.9 are 5 points apart, whatever their binary digits say.
        limit = best - NEAR_BEST
        near = [value >= limit - 1e-9 for value in found]
    return sum(near) / len(near)


def _by_length(runs: Sequence[Record], column: ColumnSummary) -> list[tuple[int, float, tuple[float, ...]]]:
    found = []
    for length in column.lengths:
        values = tuple(value for run in runs if not math.isnan(value := _value(run, column, str(length))))
        if values:
            found.append((length, float(np.median(values)), values))
    return found


def _length_score(by_length: _Lengths, column: ColumnSummary) -> tuple[float | None, tuple[int, ...]]:
    if column.train_length is None:
        return None, ()
    wanted = {multiple * column.train_length for multiple in MULTIPLES}
    means = {
        length: float(np.mean([normalised(value, column.chance, text=column.text) for value in values]))
        for length, _, values in by_length
        if length in wanted
    }
    return (float(np.mean(list(means.values()))) if len(means) > 1 else None), tuple(means)


def _longest(by_length: _Lengths) -> int | None:
    longest = None
    for length, median, _ in by_length:
        if median < FAR:
            break
        longest = length
    return longest


def _far(runs: Sequence[Record], column: ColumnSummary) -> int | None:
    if column.text or column.train_length is None or 4 * column.train_length not in column.lengths:
        return None
    return sum(_value(run, column, str(4 * column.train_length)) >= FAR for run in runs)


def _steps_to_solve(runs: Sequence[Record], column: ColumnSummary) -> float | None:
    if column.text or all(run["result"]["steps_to"] is None for run in runs):
        return None
    steps = [(run["result"]["steps_to"] or {}).get(f"{SOLVED:g}") for run in runs]
    median = float(np.median([math.inf if step is None else step for step in steps]))
    return median if math.isfinite(median) else None


def _median_cost(runs: Sequence[Record], name: str) -> float | None:
    known = [run["cost"][name] for run in runs if run["cost"][name] is not None]
    return float(np.median(known)) if known else None
