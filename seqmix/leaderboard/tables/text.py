"""The Markdown table of runs on text: bits per byte, which compares models with different tokenizers."""

import math
from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np

from seqmix._markdown import escaped, markdown_table
from seqmix.leaderboard.records.schema import Record
from seqmix.leaderboard.summary.statistics import best_learning_rate, bits_per_byte, unvalidated
from seqmix.leaderboard.tables.runs import (
    Group,
    circumstances,
    columns_of,
    counted,
    heading,
    in_digits,
    in_seconds,
    mixer_of,
    not_validated,
)

__all__ = ["text_table"]


def text_table(groups: Sequence[Group], criteria: Sequence[Any], lengths: Sequence[str] | None) -> str:
    """One row for each group, smallest bits per byte first: test results at its best learning rate.

    `criteria` are about accuracies, and not looked at.
    """
    columns = list(map(str, lengths or columns_of([run for group in groups for run in group.runs])))
    rows, chosen = [], []
    for group in groups:
        rates = group.rates
        best = best_learning_rate(rates)
        runs = rates[best]
        chosen += runs
        bits = [[bits_per_byte(run, length) for run in runs] for length in columns]
        good = [run for run in runs if run["status"] == "ok"]
        # There is no length where every run has failed.
        perplexity = [[run["result"]["metrics"].get(name, {}).get("ppl") for run in good] for name in columns[:1]]
        row = [mixer_of(runs[0]), ", ".join(f"{rate:g}" for rate in rates), f"{best:g}", *map(_range, bits)]
        row += [*map(_range, perplexity), *(counted(_median(good, *field)) for field in _FIELDS)]
        row += [in_seconds(_median(good, "cost", "train_seconds"))]
        rows.append((_first(bits[0]) if bits else math.inf, row))
    rows.sort(key=lambda pair: pair[0])
    header = ["mixer", "learning rates", "best", *(f"bits per byte, {heading(name)}" for name in columns)]
    header += [
        *(f"perplexity, {heading(name)}" for name in columns[:1]),
        "steps",
        "tokens",
        "parameters",
        "training, s",
    ]
    text = markdown_table(header, [row for _, row in rows])
    return (
        f"{text}\n\nBits per byte and perplexity (of tokens) on test documents, each token predicted from at most so "
        "many of its own document: median over the seeds (range). The learning rate is chosen by the median validation "
        f"bits per byte. {not_validated(sum(unvalidated(group.rates) for group in groups))}"
        f"{_data(chosen)} {circumstances(chosen)}"
    )


_FIELDS = (("training", "steps"), ("training", "tokens"), ("size", "params_total"))


def _first(values: Sequence[float | None]) -> float:
    known = [value for value in values if value is not None]
    return float(np.median(known)) if known else math.inf


def _median(runs: Sequence[Record], section: str, name: str) -> float | None:
    values = [run[section][name] for run in runs]
    return float(np.median(values)) if values else None


def _range(values: Sequence[float | None]) -> str:
    known = sorted(value for value in values if value is not None)
    if not known:
        return ""
    if len(known) == 1:
        return in_digits(known[0])
    return f"{in_digits(median(known))} ({in_digits(known[0])} to {in_digits(known[-1])})"


def _data(runs: Sequence[Record]) -> str:
    def listed(values: Sequence[Any]) -> str:
        return escaped(", ".join(dict.fromkeys(str(value) for value in values if value is not None)))

    sources = listed([(run["identity"]["task_kwargs"] or {}).get("corpus") for run in runs])
    versions = listed([run["identity"]["task_version"] for run in runs])
    return f"Text {sources} of Python {listed([run['repro']['python'] for run in runs])}, version {versions}."
