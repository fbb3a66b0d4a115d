"""`seqmix bench sweep`: what a sweep takes beyond its runs."""

import argparse
import tempfile
from pathlib import Path
from typing import Any

import torch

from seqmix.benchmarks import goals, overhead, record, views
from seqmix.benchmarks.tables import show
from seqmix.commands._options import positive
from seqmix.commands.bench.shared import add_out, begin_record, finish, show_goals


def add(commands: Any) -> None:
    """The subcommand `sweep`."""
    parser = commands.add_parser(
        "sweep", help="time a sweep of runs that train for a given time, and what it takes beyond them"
    )
    parser.add_argument("--runs", type=positive, default=20, metavar="N", help="default 20")
    parser.add_argument("--jobs", type=positive, default=2, metavar="N", help="runs at a time, default 2")
    parser.add_argument("--seconds", type=positive, default=2, metavar="S", help="of training in each run, default 2")
    add_out(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    settings = {"threads": [1], "runs": arguments.runs, "jobs": arguments.jobs, "seconds": arguments.seconds}
    result, path = begin_record(record.describe_run("sweep", argv, torch.device("cpu"), settings), arguments.out)
    with tempfile.TemporaryDirectory(prefix="seqmix-bench-") as folder:
        result["rows"].append(overhead.run_sweep(Path(folder), arguments.runs, arguments.jobs, arguments.seconds))
    show(views.sweep_table(result["rows"]))
    show_goals(result, goals.sweep_goals(result["rows"]))
    finish(result, path)
    return 0
