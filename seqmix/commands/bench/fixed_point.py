"""`seqmix bench fixed-point`: the fixed-point layers solved in every way, error beside time."""

import argparse
from typing import Any

from seqmix.benchmarks import fixed_point, goals, views
from seqmix.benchmarks.cases import select_cases
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.tables import show
from seqmix.commands.bench.shared import begin, finish, measuring, settings_from, show_goals


def add(commands: Any) -> None:
    """The subcommand `fixed-point`."""
    text = "solve the fixed-point layers in every way, error beside time"
    known = ", ".join(case.name for case in fixed_point.CASES)
    measuring(commands, "fixed-point", _run, text, f"cases: {known}")


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    cases, settings = select_cases(arguments.only, fixed_point.CASES), settings_from(arguments)
    batch, width = (2, 32) if settings.quick else (16, 128)
    result, path = begin(arguments, argv, settings)
    rows, progress = result["rows"], Progress(len(cases))
    for case in cases:
        progress.begin(case.name)
        rows += fixed_point.run_case(case, batch, width, settings, progress)
    progress.end()
    show(views.fixed_point_table(rows))
    print(views.fixed_point_legend() + "\n")
    show_goals(result, [] if settings.quick else goals.fixed_point_goals(rows))
    finish(result, path)
    return 0
