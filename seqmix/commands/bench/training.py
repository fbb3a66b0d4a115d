"""`seqmix bench training`: a deep model of every mixer for some steps."""

import argparse
from typing import Any

from seqmix.benchmarks import views
from seqmix.benchmarks.layer_setup import select_mixers
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.tables import show
from seqmix.benchmarks.timing import threads
from seqmix.benchmarks.training import Workload, product_speed, run_training
from seqmix.commands._options import positive
from seqmix.commands.bench.shared import MIXER_CASES, begin, finish, measuring, settings_from


def add(commands: Any) -> None:
    """The subcommand `training`."""
    text = "train a deep model of every mixer for some steps: speed, memory, and whether the loss stays finite"
    parser = measuring(commands, "training", _run, text, MIXER_CASES)
    default = Workload()
    for name, value in (
        ("steps", default.steps),
        ("layers", default.n_layers),
        ("d-model", default.d_model),
        ("length", default.length),
        ("batch", default.batch),
    ):
        parser.add_argument(f"--{name}", type=positive, default=value, help=f"default {value}")


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    names, settings = select_mixers(arguments.only), settings_from(arguments)
    workload = Workload(arguments.layers, arguments.d_model, arguments.batch, arguments.length, arguments.steps)
    if settings.quick:
        workload = Workload(n_layers=2, d_model=32, batch=2, length=32, steps=5)
    result, path = begin(arguments, argv, settings)
    progress = Progress(len(names))
    with threads(max(settings.threads)):
        speed = product_speed(settings.dtype, settings.device)
        result["settings"]["product_flops_per_second"] = speed
        for name in names:
            progress.begin(name)
            row = run_training(name, workload, settings.dtype, settings.device, progress)
            if row["status"] == "ok":
                row["utilisation"] = row["model_flops_per_second"] / speed
            result["rows"].append(row)
    progress.end()
    show(views.training_table(result["rows"]))
    print(views.training_legend() + "\n")
    finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))
