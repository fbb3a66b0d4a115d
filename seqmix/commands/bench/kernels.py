"""`seqmix bench kernels`: every op beside what else computes it, checked before it is timed."""

import argparse
import sys
from typing import Any

from seqmix.benchmarks import goals, views
from seqmix.benchmarks.cases import CASES, select_cases
from seqmix.benchmarks.kernels import is_failure, run_case
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.sweeps import SWEEPS, sweep_sizes
from seqmix.benchmarks.tables import show
from seqmix.commands.bench.shared import begin, finish, measuring, settings_from, show_goals


def add(commands: Any) -> None:
    """The subcommand `kernels`."""
    known = ", ".join(case.name for case in CASES)
    parser = measuring(commands, "kernels", _run, "time every op beside what else computes it", f"cases: {known}")
    parser.add_argument(
        "--sweep", choices=tuple(SWEEPS), help="; ".join(f"{name}: {text}" for name, text in SWEEPS.items())
    )
    parser.add_argument(
        "--compile", action="store_true", help="also time torch's associative_scan compiled (minutes a case)"
    )


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    cases, settings = select_cases(arguments.only), settings_from(arguments)
    runs = [
        (case, size) for case in cases for size in sweep_sizes(case, settings.device, settings.sweep, settings.quick)
    ]
    if not runs:
        raise ValueError(f"--sweep {settings.sweep} changes none of the cases {arguments.only!r}")
    result, path = begin(arguments, argv, settings)
    rows, progress = result["rows"], Progress(len(runs))
    for case, sizes in runs:
        progress.begin(f"{case.name} ({views.sizes_text(sizes)})" if settings.sweep else case.name)
        fresh = run_case(case, settings, progress, sizes)
        progress.end()
        rows += fresh
        for count in dict.fromkeys(row["threads"] for row in fresh):
            show(views.case_table([row for row in fresh if row["threads"] == count]))
    print(views.kernel_legend() + "\n")
    show_goals(result, [] if settings.quick else goals.goals_of(result))
    finish(result, path)
    failures = [row for row in rows if is_failure(row)]
    for row in failures:
        print(f"seqmix bench: {row['case']}, {row['contestant']}: {row['status']}, {row['reason']}", file=sys.stderr)
    return 1 if failures else 0
