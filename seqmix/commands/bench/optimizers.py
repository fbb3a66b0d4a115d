"""`seqmix bench optimizers`: a step of every optimizer of ours beside torch's."""

import argparse
from typing import Any

from seqmix.benchmarks import optimizers
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.tables import show
from seqmix.commands.bench.shared import begin, finish, measuring, settings_from, show_goals


def add(commands: Any) -> None:
    """The subcommand `optimizers`."""
    text = "time a step of every optimizer of ours beside torch's, 10 million parameters"
    known = "; ".join(contestant.name for contestant in optimizers.CONTESTANTS)
    measuring(commands, "optimizers", _run, text, f"cases: {known}")


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    contestants, settings = optimizers.select(arguments.only), settings_from(arguments)
    result, path = begin(arguments, argv, settings)
    progress = Progress(1)
    progress.begin("steps")
    result["rows"] = rows = optimizers.run_optimizers(contestants, settings, progress)
    progress.end()
    show(optimizers.optimizers_table(rows))
    show_goals(result, [] if settings.quick else optimizers.optimizer_goals(rows))
    finish(result, path)
    return int(any(row["status"] != "ok" for row in rows))
