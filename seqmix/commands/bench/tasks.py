"""`seqmix bench tasks`: how fast every task makes its batches."""

import argparse
from dataclasses import replace
from typing import Any

from seqmix.benchmarks import goals, tasks, views
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.tables import show
from seqmix.commands.bench.shared import begin, finish, measuring, settings_from, show_goals


def add(commands: Any) -> None:
    """The subcommand `tasks`."""
    text = "make training batches of every task, on one core"
    measuring(commands, "tasks", _run, text, "cases are tasks, see: seqmix list tasks")


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    if arguments.device != "cpu" or arguments.threads not in (None, (1,)) or arguments.dtype != "float32":
        raise ValueError("tasks: batches are made on one core of the CPU, without --device, --dtype, --threads")
    names, settings = tasks.select_tasks(arguments.only), replace(settings_from(arguments), threads=(1,))
    result, path = begin(arguments, argv, settings)
    progress = Progress(len(names))
    for name in names:
        progress.begin(name)
        result["rows"].append(tasks.run_task(name, settings.quick, settings.plan, progress))
    progress.end()
    show(views.tasks_table(result["rows"]))
    show_goals(result, [] if settings.quick else goals.task_goals(result["rows"]))
    finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))
