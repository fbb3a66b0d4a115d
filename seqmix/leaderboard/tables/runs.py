"""Markdown tables of runs: one row for each seed, or one row for each config."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from seqmix._markdown import Markup, escaped, markdown_table
from seqmix._measures import MEASURES, named
from seqmix.leaderboard.records.schema import Record, without_rate_and_seed
from seqmix.leaderboard.records.store import latest
from seqmix.leaderboard.summary.certified import LEGEND, answer, any_asked, count
from seqmix.leaderboard.summary.statistics import (
    Criterion,
    accuracy,
    best_learning_rate,
    by_length,
    is_text,
    learning_rate,
    solved,
    spread,
    unvalidated,
)

__all__ = [
    "COLUMN_MEASURES",
    "KINDS",
    "Group",
    "circumstances",
    "group_runs",
    "in_accuracy",
    "in_digits",
    "not_validated",
    "seeds_table",
    "summary_table",
]

_RATE = "optimizer.lr="
# What `--lengths MEASURE:LENGTH` can name.
COLUMN_MEASURES = {measure.key: measure.phrase for measure in MEASURES if measure.kind == "share"}


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but learning rate and seed."""

    label: str
    runs: tuple[Record, ...]

    @property
    def rates(self) -> dict[float, list[Record]]:
        """Runs by learning rate, smallest first."""
        found: dict[float, list[Record]] = {}
        for run in sorted(self.runs, key=lambda run: (learning_rate(run), run["identity"]["seed"])):
            found.setdefault(learning_rate(run), []).append(run)
        return found


def group_runs(records: Sequence[Record]) -> list[Group]:
    """Groups in the order in which their first records stand; of a run that was tried again the last attempt.

    A config that was edited between two sweeps is two groups, told apart by numbers.
    """
    groups: dict[str, tuple[str, list[Record]]] = {}
    for record in latest(records):
        identity = record["identity"]
        overrides = [text for text in identity["overrides"] if not text.startswith(_RATE)]
        label = " ".join([identity["config"], *overrides])
        _, runs = groups.setdefault(repr((label, without_rate_and_seed(identity["settings"]))), (label, []))
        runs.append(record)
    labels = [label for label, _ in groups.values()]
    numbered: list[Group] = []
    for index, (label, runs) in enumerate(groups.values()):
        number = f" ({labels[: index + 1].count(label)})" if labels.count(label) > 1 else ""
        numbered.append(Group(label + number, tuple(runs)))
    return numbered


def seeds_table(groups: Sequence[Group], criteria: Sequence[Criterion], lengths: Sequence[str] | None) -> str:
    """For each group and learning rate a table with a row for each seed, one of medians, and how many are solved."""
    parts = []
    for group in groups:
        for rate, runs in group.rates.items():
            columns = list(map(str, lengths or columns_of(runs)))
            restarted = any(run["result"]["restarts"] is not None for run in runs)
            asked = any_asked(runs)
            rows = [
                [str(run["identity"]["seed"]), *_result(run, columns), *_cost(run, restarted), *_proof(run, asked)]
                for run in runs
            ]
            medians = [in_accuracy(_median([_value(run, column) for run in runs])) for column in columns]
            steps, seconds = _median_cost(runs, "training", "steps"), _median_cost(runs, "cost", "train_seconds")
            processor = [in_seconds(_median_cost(runs, "cost", "cpu_seconds")), count(runs)] if asked else []
            rows.append(["median", *medians, counted(steps), *[""] * restarted, in_seconds(seconds), *processor])
            header = ["seed", *map(heading, columns), "steps", *["restarts"] * restarted, "training, s"]
            header += ["processor, s", "certified"] if asked else []
            name = f"**{escaped(group.label)}**: {escaped(mixer_of(runs[0]))}"
            parts.append(f"{name}, learning rate {rate:g}. {_measure(runs)} at each length.")
            parts.append(markdown_table(header, rows))
            parts.append((LEGEND if asked else "") + _solved_line(runs, criteria))
    return "\n\n".join(parts)


def summary_table(groups: Sequence[Group], criteria: Sequence[Criterion], lengths: Sequence[str] | None) -> str:
    """One row for each group: its learning rates, the best on validation data, and test results at that one."""
    rows, chosen = [], []
    columns = list(map(str, lengths or columns_of([run for group in groups for run in group.runs])))
    asked = any_asked([run for group in groups for run in group.runs])
    for group in groups:
        rates = group.rates
        best = best_learning_rate(rates)
        runs = rates[best]
        chosen += runs
        row = [
            group.label,
            mixer_of(runs[0]),
            ", ".join(f"{rate:g}" for rate in rates),
            f"{best:g}",
            _solved(runs, criteria),
        ]
        row += [_range([_value(run, column) for run in runs]) for column in columns]
        sizes = [run["size"]["params_total"] for run in runs if run["status"] == "ok"]
        row += [count(runs), counted(_median_cost(runs, "training", "steps"))] if asked else []
        row += [in_seconds(_median_cost(runs, "cost", "train_seconds")), counted(sizes[0] if sizes else None)]
        rows.append(row)
    header = ["config", "mixer", "learning rates", "best", "solved", *map(heading, columns)]
    header += ["certified", "steps"] if asked else []
    table = markdown_table([*header, "training, s", "parameters"], rows, left=2)
    return (
        f"{table}\n\nSolved: {_criteria(criteria)}, runs at the best learning rate, with Wilson 95 % intervals. The "
        f"learning rate is chosen by the median validation accuracy at training length. "
        f"{not_validated(sum(unvalidated(group.rates) for group in groups))}"
        f"{LEGEND if asked else ''}"
        f"{_measure(chosen)} at each length of the test data: median over the seeds (range). {_legend(columns)}"
        f"{circumstances(chosen)}"
    )


KINDS: dict[str, Callable[..., str]] = {"seeds": seeds_table, "summary": summary_table}


def columns_of(runs: Sequence[Record]) -> list[str]:
    """Names of the test sets of runs: lengths in order, then the others."""
    # A run that diverged was not tested, but knows where it would have been.
    return sorted(dict.fromkeys(name for run in runs for name in (run["size"]["state_size"] or {})), key=by_length)


def _value(run: Record, column: str) -> float | None:
    measure, name = _parts(column)
    return accuracy(run, name, measure)


def _parts(column: str) -> tuple[str | None, str]:
    # `64` or `free_seq:64`; a colon in the name of a test set is part of it.
    measure, _, name = column.partition(":")
    return (measure, name) if measure in COLUMN_MEASURES and name else (None, column)


def _legend(columns: Sequence[str]) -> str:
    found = dict.fromkeys(measure for measure, _ in map(_parts, columns) if measure)
    return "".join(f"{name}: {COLUMN_MEASURES[name]}. " for name in found)


def heading(name: str) -> str:
    """The name of a test set as the head of a column."""
    return f"{int(name):,}" if name.isdecimal() else name


def _result(run: Record, lengths: Sequence[str]) -> list[str]:
    if run["status"] == "failed":
        return ["failed"] * len(lengths)
    if run["result"]["diverged"]:
        return ["diverged"] * len(lengths)
    return [in_accuracy(_value(run, column)) for column in lengths]


def _cost(run: Record, restarted: bool) -> list[str]:
    restarts = [counted(run["result"]["restarts"])] * restarted
    return [counted(run["training"]["steps"]), *restarts, in_seconds(run["cost"]["train_seconds"])]


def _proof(run: Record, asked: bool) -> list[str]:
    return [in_seconds(run["cost"]["cpu_seconds"]), answer(run)] if asked else []


def _median_cost(runs: Sequence[Record], section: str, name: str) -> float | None:
    return _median([run[section][name] for run in runs])


def counted(value: float | None) -> str:
    """`12,345`."""
    return "" if value is None else f"{value:,.0f}"


def in_seconds(value: float | None) -> str:
    """Seconds, to a tenth below ten."""
    return "" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else None


def in_accuracy(value: float | None) -> str:
    """Three digits; 0.9998 is not 1: what rounds up to it is cut off."""
    if value is None:
        return ""
    return f"{value:.3f}" if value == 1 or value < 0.9995 else "0.999"


def in_digits(value: float) -> str:
    """Three digits, and ∞ for what diverged or failed."""
    return f"{value:.3f}" if math.isfinite(value) else "∞"


def _range(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    if len(known) == 1:
        return in_accuracy(known[0])
    summary = spread(known)
    return f"{in_accuracy(summary.median)} ({in_accuracy(summary.low)} to {in_accuracy(summary.high)})"


def mixer_of(run: Record) -> str:
    """Its mixer with arguments."""
    identity = run["identity"]
    arguments = identity["mixer_kwargs"]
    text = ", ".join(f"{name}={value}" for name, value in arguments.items()) if isinstance(arguments, dict) else ""
    return f"{identity['mixer']}({text})" if text else str(identity["mixer"])


def _measure(runs: Sequence[Record]) -> str:
    measures = dict.fromkeys(named(run["result"]["metric"]) for run in runs if run["status"] == "ok")
    found = [measure.phrase.removesuffix(" accuracy") for measure in measures]
    return " ".join([*" or ".join(found).split(), "accuracy"]).capitalize()


def _criteria(criteria: Sequence[Criterion]) -> str:
    parts = []
    for criterion in criteria:
        length = f"length {criterion.length}" if isinstance(criterion.length, int) else criterion.length
        length = f"{criterion.length} times the training length" if criterion.relative else length
        length = "the training length" if criterion.relative and criterion.length == 1 else length
        measure = f" ({criterion.measure})" if criterion.measure else ""
        parts.append(f"at least {criterion.threshold:g} at {length}{measure}")
    return " and ".join(parts)


def _solved(runs: Sequence[Record], criteria: Sequence[Criterion]) -> str:
    count, (low, high) = solved(runs, criteria)
    return f"{count} of {len(runs)} ({low:.2f} to {high:.2f})"


def _solved_line(runs: Sequence[Record], criteria: Sequence[Criterion]) -> str:
    count, (low, high) = solved(runs, criteria)
    return (
        f"Solved, {_criteria(criteria)}: {count} of {len(runs)} seeds (Wilson 95 % interval {low:.2f} to {high:.2f}). "
        + circumstances(runs)
    )


def not_validated(count: int) -> str:
    """A sentence, where learning rates were chosen without the validation of so many runs; else nothing."""
    what = "1 run was" if count == 1 else f"{count} runs were"
    return f"{what} never validated and counted as the worst in that choice. " if count else ""


def circumstances(runs: Sequence[Record]) -> Markup:
    """Machine, threads, versions and commits of runs, in one line of Markdown."""

    def listed(values: Sequence[Any]) -> Markup:
        return escaped(", ".join(dict.fromkeys(str(value) for value in values if value is not None)))

    threads = listed([run["cost"]["threads"] for run in runs])
    repro = [run["repro"] for run in runs]
    commits = listed([r["commit"][:10] + (" with changes" if r["dirty"] else "") for r in repro if r["commit"]])
    devices = [run["cost"]["device"] for run in runs]
    machine = [r["processor"] if d in (None, "cpu") else d for r, d in zip(repro, devices, strict=True)]
    broken = any(run["status"] == "failed" or run["result"]["diverged"] for run in runs)
    # A failed run does not know its measure; those that count beside it do.
    worst = {"infinite bits" if is_text(run) else "accuracy 0" for run in runs if run["status"] == "ok"} or {
        "accuracy 0"
    }
    return Markup(
        (f"Diverged and failed runs count, with {' or '.join(sorted(worst))}. " if broken else "")
        + (
            f"{listed(machine)}, {threads} thread{'' if threads == '1' else 's'} a run; "
            f"torch {listed([r['torch'] for r in repro])}" + (f", commit {commits}" if commits else "") + "."
        )
    )
