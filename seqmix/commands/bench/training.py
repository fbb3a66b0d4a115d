"""`seqmix bench training`: a model of every mixer for some steps, beside other libraries' on a CPU."""

import argparse
from typing import Any

from seqmix.benchmarks import goals, views
from seqmix.benchmarks.layer_setup import select_mixers
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.tables import show
from seqmix.benchmarks.timing import threads
from seqmix.benchmarks.training import product_speed, run_training
from seqmix.benchmarks.training_peers import installed_peers
from seqmix.benchmarks.workload import Workload
from seqmix.commands._options import positive
from seqmix.commands.bench.shared import (
    MIXER_CASES,
    begin,
    finish,
    measuring,
    settings_from,
    show_goals,
    up_to_an_interruption,
)

_SIZES = ("n_layers", "d_model", "batch", "length", "steps")


def add(commands: Any) -> None:
    """The subcommand `training`."""
    text = "train a model of every mixer for some steps: speed, memory, where time goes, whether the loss is finite"
    parser = measuring(commands, "training", _run, text, MIXER_CASES)
    gpu, cpu = Workload(), Workload.on_cpu()
    for name in _SIZES:
        option = f"--{name.removeprefix('n_').replace('_', '-')}"
        text = f"default {getattr(gpu, name)}, on a CPU {getattr(cpu, name)}"
        parser.add_argument(option, type=positive, dest=name, metavar="N", help=text)
    parser.add_argument("--peers", action="store_true", help="also what plain torch and other libraries have, on a CPU")


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    names, settings = select_mixers(arguments.only), settings_from(arguments)
    on_cpu = settings.device.type == "cpu"
    workload = Workload.on_cpu() if on_cpu else Workload()
    if settings.quick:
        workload = Workload(n_layers=2, d_model=64, batch=2, length=32, steps=5)
    workload = workload.with_sizes({name: getattr(arguments, name) for name in _SIZES})
    if arguments.peers and not on_cpu:
        raise ValueError(f"--peers: expected --device cpu, got {settings.device}")
    if arguments.peers:
        names += installed_peers()
    result, path = begin(arguments, argv, settings)
    counts = settings.threads if on_cpu else (max(settings.threads),)
    progress = Progress(len(names) * len(counts))
    with up_to_an_interruption() as interrupted:
        for count in counts:
            with threads(count):
                speed = product_speed(settings.dtype, settings.device)
                result["settings"][f"product_flops_per_second_{count}"] = speed
                for name in names:
                    progress.begin(name)
                    row = run_training(name, workload, settings.dtype, settings.device, settings.plan, progress)
                    if row.get("model_flops_per_second"):
                        row["utilisation"] = row["model_flops_per_second"] / speed
                    result["rows"].append({"threads": count, **row})
    progress.end()
    show(views.training_table(result["rows"]))
    print(views.training_legend(result["rows"]) + "\n")
    show_goals(result, goals.training_goals(result["rows"]))
    finish(result, path)
    if interrupted.is_set():
        print(f"interrupted after {len(result['rows'])} of {len(names) * len(counts)} cases, which are kept")
        return 130
    return int(any(row["status"] != "ok" and not row["peer"] for row in result["rows"]))
