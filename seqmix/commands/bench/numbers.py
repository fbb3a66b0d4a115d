"""`seqmix bench numbers`: every mixer on a device against float64 on the CPU."""

import argparse
from typing import Any

from seqmix.benchmarks import views
from seqmix.benchmarks.layer_setup import Shape, select_mixers
from seqmix.benchmarks.numbers import run_numbers
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.tables import show
from seqmix.commands.bench.shared import MIXER_CASES, begin, finish, measuring, settings_from
from seqmix.kernels._backend import BACKENDS


def add(commands: Any) -> None:
    """The subcommand `numbers`."""
    text = "hold outputs and gradients of every mixer against float64 on the CPU"
    parser = measuring(commands, "numbers", _run, text, MIXER_CASES)
    parser.add_argument("--kernels", choices=BACKENDS, help="which kernels; default those of the device")


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    names, settings = select_mixers(arguments.only), settings_from(arguments)
    shape = Shape(2, 17, 32) if settings.quick else Shape(2, 150, 64)
    result, path = begin(arguments, argv, settings)
    progress = Progress(len(names))
    for name in names:
        progress.begin(name)
        result["rows"].append(run_numbers(name, shape, settings.dtype, settings.device, arguments.kernels))
    progress.end()
    show(views.numbers_table(result["rows"]))
    finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))
