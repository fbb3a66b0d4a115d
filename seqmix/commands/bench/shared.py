"""What the subcommands of `seqmix bench` share: options, settings, the record of a run, goals."""

import argparse
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import torch

from seqmix._signals import Interrupted
from seqmix.benchmarks import memory, record, views
from seqmix.benchmarks.tables import show
from seqmix.benchmarks.timing import Plan, Settings
from seqmix.commands._options import positive, why_unusable

__all__ = [
    "MIXER_CASES",
    "add_out",
    "begin",
    "begin_record",
    "finish",
    "measuring",
    "numbers",
    "settings_from",
    "show_goals",
    "up_to_an_interruption",
]

MIXER_CASES = "cases are mixers, see: seqmix list mixers"

_DTYPES = ("float32", "float64", "bfloat16", "float16")
_AUTO = "auto"
_QUICK = Plan(repeats=2, sample_s=0.0, budget_s=1.0)


def measuring(commands: Any, name: str, run: Callable[..., int], text: str, epilog: str) -> argparse.ArgumentParser:
    """The parser of a subcommand that measures, with the options that all of those have."""
    parser = commands.add_parser(name, help=text, description=text, epilog=epilog)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or another torch device; default cpu")
    parser.add_argument("--dtype", default="float32", choices=_DTYPES, help="default float32")
    parser.add_argument("--threads", type=numbers, help="torch threads, default 1,2 where there are two cores")
    parser.add_argument("--only", metavar="PATTERN", help="shell patterns of case names, separated by commas")
    add_out(parser)
    parser.add_argument("--repeats", type=positive, help="samples a contestant, default 9")
    parser.add_argument(
        "--memory",
        default="system",
        choices=memory.MODES,
        help="system: as everywhere; kept: freed memory is reused, so that no time goes into mapping pages",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; times mean nothing")
    parser.set_defaults(run=run)
    return parser


def add_out(parser: argparse.ArgumentParser) -> None:
    """The option that names a file for the results."""
    parser.add_argument(
        "--out",
        nargs="?",
        const=_AUTO,
        metavar="FILE.json",
        help="write results as JSON; without a name under benchmarks/results/<processor>/",
    )


def numbers(text: str) -> tuple[int, ...]:
    """Positive integers, separated by commas."""
    return tuple(positive(part.strip()) for part in text.split(","))


def settings_from(arguments: argparse.Namespace) -> Settings:
    """How to measure; a device that torch cannot use raises `ValueError`."""
    if reason := why_unusable(arguments.device):
        raise ValueError(f"--device must be a device that torch can use here, got {arguments.device!r}: {reason}")
    device = torch.device(arguments.device)
    memory.use(arguments.memory)
    counts = arguments.threads
    if counts is None:
        cores = record.machine(torch.device("cpu"))["usable_cores"] or 1
        counts = (1, 2) if cores > 1 and device.type == "cpu" else (1,)
    plan = _QUICK if arguments.quick else Plan()
    if arguments.repeats is not None:
        plan = Plan(arguments.repeats, plan.sample_s, plan.budget_s)
    dtype = getattr(torch, arguments.dtype)
    sweep = getattr(arguments, "sweep", None)
    return Settings(device, dtype, counts, arguments.quick, getattr(arguments, "compile", False), sweep, plan)


def begin(arguments: argparse.Namespace, argv: list[str], settings: Settings) -> tuple[record.Record, Path | None]:
    """The record of this run, without rows, and the file it goes into; prints the machine."""
    facts = {
        "dtype": arguments.dtype,
        "threads": list(settings.threads),
        "quick": settings.quick,
        "memory": arguments.memory,
        "sweep": settings.sweep,
        "repeats": settings.plan.repeats,
        "sample_s": settings.plan.sample_s,
        "budget_s": settings.plan.budget_s,
    }
    return begin_record(record.describe_run(arguments.command, argv, settings.device, facts), arguments.out)


def begin_record(result: record.Record, out: str | None) -> tuple[record.Record, Path | None]:
    """A record without rows, and the file that `--out` names for it; prints the machine."""
    path = None
    if out is not None:
        path = record.default_path(result) if out == _AUTO else Path(out)
        record.check_writable(path)
    machine = result["machine"]
    print(f"{machine.get('accelerator', machine['processor'])}, {machine['usable_cores']} cores; ", end="")
    print(", ".join(f"{name} {version}" for name, version in result["versions"].items() if version), flush=True)
    return result, path


def finish(result: record.Record, path: Path | None) -> None:
    """Write the record, if it was asked for."""
    if path is not None:
        record.save(path, result)
        print(f"written to {path}")


def show_goals(result: record.Record, results: list[tuple[str, str, bool]]) -> None:
    """Keep and print what was set out to be reached, beside what was measured."""
    result["goals"] = [{"goal": text, "measured": measured, "met": met} for text, measured, met in results]
    if results:
        show(views.goals_table(results))


@contextmanager
def up_to_an_interruption() -> Iterator[Event]:
    """Inside, a signal ends the measuring and sets the event: minutes of it are not thrown away for the last case."""
    interrupted = Event()
    try:
        yield interrupted
    except (KeyboardInterrupt, Interrupted):
        interrupted.set()
