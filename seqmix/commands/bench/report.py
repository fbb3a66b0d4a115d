"""`seqmix bench report`: documentation written from the JSON files of the others."""

import argparse
from pathlib import Path
from typing import Any

from seqmix.benchmarks import record
from seqmix.benchmarks.report import write


def add(commands: Any) -> None:
    """The subcommand `report`."""
    report = commands.add_parser("report", help="write tables and a figure into the documentation from JSON files")
    report.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="results written with --out")
    report.add_argument("--docs", type=Path, default=Path("docs/benchmarks.md"), help="default docs/benchmarks.md")
    report.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    for path in write([record.load(file) for file in arguments.files], arguments.docs):
        print(f"written to {path}")
    return 0
