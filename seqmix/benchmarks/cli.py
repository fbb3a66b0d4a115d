"""The command line of `seqmix bench`."""

import argparse
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from seqmix.benchmarks import fixed_point, goals, memory, optimizers, record, tasks, views
from seqmix.benchmarks.cases import CASES, select_cases
from seqmix.benchmarks.decode import run_decode
from seqmix.benchmarks.kernels import Settings, is_failure, run_case
from seqmix.benchmarks.layer_setup import Shape, select_mixers
from seqmix.benchmarks.layers import run_layer
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.sweeps import SWEEPS, sweep_sizes
from seqmix.benchmarks.tables import show
from seqmix.benchmarks.timing import Plan, threads
from seqmix.benchmarks.training import Workload, product_speed, run_training

DTYPES = ("float32", "float64", "bfloat16", "float16")
AUTO = "auto"

_CASES = {
    "fixed-point": "cases: " + ", ".join(case.name for case in fixed_point.CASES),
    "optimizers": "cases: " + "; ".join(contestant.name for contestant in optimizers.CONTESTANTS),
}
_QUICK = Plan(repeats=2, sample_s=0.0, budget_s=1.0)
_EPILOG = """examples:
  seqmix bench kernels --device cpu                      every op at its standard size
  seqmix bench kernels --only 'diagonal*,selective_scan' --threads 1 --out
  seqmix bench kernels --device cuda --sweep length --out    on a GPU; also --sweep block --dtype bfloat16
  seqmix bench layers --only bd-lru
  seqmix bench tasks                                     how fast every task makes its data
  seqmix bench training --device cuda --dtype bfloat16 --out
  seqmix bench report benchmarks/results/*/*.json --docs docs/benchmarks.md

Kernels are checked before they are timed: wrong numbers get no time and the exit status 1."""


def main(argv: list[str] | None = None) -> int:
    """Run `seqmix bench` with these arguments; returns the exit status.

    0: done; 1: a contestant's numbers were wrong or an op of seqmix failed; 2: a mistake in the arguments;
    130: interrupted, and nothing was written.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(argv)
    try:
        return arguments.run(arguments, argv)
    except (ValueError, ImportError) as error:
        if isinstance(error, ImportError) and "pip install" not in str(error):
            raise
        print(f"seqmix bench: error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nseqmix bench: interrupted, no file was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "seqmix bench", description=__doc__, epilog=_EPILOG, formatter_class=raw, allow_abbrev=False
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    known = ", ".join(case.name for case in CASES)
    kernels = _measuring(commands, "kernels", _kernels, "time every op beside what else computes it", f"cases: {known}")
    kernels.add_argument(
        "--sweep", choices=tuple(SWEEPS), help="; ".join(f"{name}: {text}" for name, text in SWEEPS.items())
    )
    kernels.add_argument(
        "--compile", action="store_true", help="also time torch's associative_scan compiled (minutes a case)"
    )
    for name, run, text in (
        ("layers", _layers, "time every mixer, forward and backward, and see where its time goes"),
        ("decode", _decode, "time one token with step(), by batch size"),
        ("optimizers", _optimizers, "time a step of every optimizer of ours beside torch's, 10 million parameters"),
        ("fixed-point", _fixed_point, "solve the fixed-point layers in every way, error beside time"),
    ):
        command = _measuring(commands, name, run, text, _CASES.get(name, "cases are mixers, see: seqmix list mixers"))
        if name in _CASES:
            continue
        command.add_argument("--length", type=_positive, help="tokens T, default 512")
        command.add_argument("--d-model", type=_positive, help="width, default 128")
        many = name == "decode"
        command.add_argument(
            "--batch", type=_numbers if many else _positive, help=f"batch size, default {'1,16' if many else 16}"
        )
    text = "train a deep model of every mixer for some steps: speed, memory, and whether the loss stays finite"
    command = _measuring(commands, "training", _training, text, "cases are mixers, see: seqmix list mixers")
    default = Workload()
    for name, value in (("steps", default.steps), ("layers", default.n_layers), ("d-model", default.d_model)):
        command.add_argument(f"--{name}", type=_positive, default=value, help=f"default {value}")
    for name, value in (("length", default.length), ("batch", default.batch)):
        command.add_argument(f"--{name}", type=_positive, default=value, help=f"default {value}")
    text = "make training batches of every task, on one core"
    _measuring(commands, "tasks", _tasks, text, "cases are tasks, see: seqmix list tasks")
    report = commands.add_parser("report", help="write tables and a figure into the documentation from JSON files")
    report.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="results written with --out")
    report.add_argument("--docs", type=Path, default=Path("docs/benchmarks.md"), help="default docs/benchmarks.md")
    report.set_defaults(run=_report)
    return parser


def _measuring(commands: Any, name: str, run: Callable[..., int], text: str, epilog: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text, epilog=epilog, allow_abbrev=False)
    parser.add_argument("--device", default="cpu", help="cpu, cuda or another torch device; default cpu")
    parser.add_argument("--dtype", default="float32", choices=DTYPES, help="default float32")
    parser.add_argument("--threads", type=_numbers, help="torch threads, default 1,2 where there are two cores")
    parser.add_argument("--only", metavar="PATTERN", help="shell patterns of case names, separated by commas")
    parser.add_argument(
        "--out",
        nargs="?",
        const=AUTO,
        metavar="FILE.json",
        help="write results as JSON; without a name under benchmarks/results/<processor>/",
    )
    parser.add_argument("--repeats", type=_positive, help="samples a contestant, default 9")
    parser.add_argument(
        "--memory",
        default="system",
        choices=memory.MODES,
        help="system: as everywhere; kept: freed memory is reused, so that no time goes into mapping pages",
    )
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; times mean nothing")
    parser.set_defaults(run=run)
    return parser


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(_positive(part.strip()) for part in text.split(","))


def _settings(arguments: argparse.Namespace) -> Settings:
    try:
        device = torch.device(arguments.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0]
        raise ValueError(
            f"--device must be a device that torch can use here, got {arguments.device!r}: {reason}"
        ) from None
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


def _begin(arguments: argparse.Namespace, argv: list[str], settings: Settings) -> tuple[record.Record, Path | None]:
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
    result = record.describe_run(arguments.command, argv, settings.device, facts)
    path = None
    if arguments.out is not None:
        path = record.default_path(result) if arguments.out == AUTO else Path(arguments.out)
        record.check_writable(path)
    machine = result["machine"]
    print(f"{machine.get('accelerator', machine['processor'])}, {machine['usable_cores']} cores; ", end="")
    print(", ".join(f"{name} {version}" for name, version in result["versions"].items() if version), flush=True)
    return result, path


def _finish(result: record.Record, path: Path | None) -> None:
    if path is not None:
        record.save(path, result)
        print(f"written to {path}")


def _kernels(arguments: argparse.Namespace, argv: list[str]) -> int:
    cases, settings = select_cases(arguments.only), _settings(arguments)
    runs = [
        (case, size) for case in cases for size in sweep_sizes(case, settings.device, settings.sweep, settings.quick)
    ]
    if not runs:
        raise ValueError(f"--sweep {settings.sweep} changes none of the cases {arguments.only!r}")
    result, path = _begin(arguments, argv, settings)
    rows, progress = result["rows"], Progress(len(runs))
    for case, sizes in runs:
        progress.begin(f"{case.name} ({views.sizes_text(sizes)})" if settings.sweep else case.name)
        fresh = run_case(case, settings, progress, sizes)
        progress.end()
        rows += fresh
        for count in dict.fromkeys(row["threads"] for row in fresh):
            show(views.case_table([row for row in fresh if row["threads"] == count]))
    print(views.kernel_legend() + "\n")
    _show_goals(result, [] if settings.quick else goals.goals_of(result))
    _finish(result, path)
    failures = [row for row in rows if is_failure(row)]
    for row in failures:
        print(f"seqmix bench: {row['case']}, {row['contestant']}: {row['status']}, {row['reason']}", file=sys.stderr)
    return 1 if failures else 0


def _layers(arguments: argparse.Namespace, argv: list[str]) -> int:
    names, settings = select_mixers(arguments.only), _settings(arguments)
    shape = _shape(arguments, Shape(arguments.batch or (2 if settings.quick else 16)))
    result, path = _begin(arguments, argv, settings)
    progress = Progress(len(names))
    for name in names:
        progress.begin(name)
        result["rows"] += run_layer(
            name, shape, settings.dtype, settings.device, settings.plan, settings.threads, progress
        )
    progress.end()
    show(views.layers_table(result["rows"]))
    print(views.layers_legend() + "\n")
    _show_goals(result, [] if settings.quick else goals.layer_goals(result["rows"]))
    _finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))


def _decode(arguments: argparse.Namespace, argv: list[str]) -> int:
    names, settings = select_mixers(arguments.only), _settings(arguments)
    shape, batches = _shape(arguments, Shape()), arguments.batch or (1, 16)
    result, path = _begin(arguments, argv, settings)
    progress = Progress(len(names))
    for name in names:
        progress.begin(name)
        result["rows"] += run_decode(
            name, shape, batches, settings.dtype, settings.device, settings.plan, settings.threads, progress
        )
    progress.end()
    show(views.decode_table(result["rows"]))
    _finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))


def _training(arguments: argparse.Namespace, argv: list[str]) -> int:
    names, settings = select_mixers(arguments.only), _settings(arguments)
    workload = Workload(arguments.layers, arguments.d_model, arguments.batch, arguments.length, arguments.steps)
    if settings.quick:
        workload = Workload(n_layers=2, d_model=32, batch=2, length=32, steps=5)
    result, path = _begin(arguments, argv, settings)
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
    _finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))


def _optimizers(arguments: argparse.Namespace, argv: list[str]) -> int:
    contestants, settings = optimizers.select(arguments.only), _settings(arguments)
    result, path = _begin(arguments, argv, settings)
    progress = Progress(1)
    progress.begin("steps")
    result["rows"] = rows = optimizers.run_optimizers(
        contestants, settings.quick, settings.dtype, settings.device, settings.plan, settings.threads, progress
    )
    progress.end()
    show(optimizers.optimizers_table(rows))
    _show_goals(result, [] if settings.quick else optimizers.optimizer_goals(rows))
    _finish(result, path)
    return int(any(row["status"] != "ok" for row in rows))


def _fixed_point(arguments: argparse.Namespace, argv: list[str]) -> int:
    cases, settings = select_cases(arguments.only, fixed_point.CASES), _settings(arguments)
    batch, width = (2, 32) if settings.quick else (16, 128)
    result, path = _begin(arguments, argv, settings)
    rows, progress = result["rows"], Progress(len(cases))
    for case in cases:
        progress.begin(case.name)
        rows += fixed_point.run_case(
            case, batch, width, settings.dtype, settings.device, settings.plan, settings.threads, progress
        )
    progress.end()
    show(views.fixed_point_table(rows))
    print(views.fixed_point_legend() + "\n")
    _show_goals(result, [] if settings.quick else goals.fixed_point_goals(rows))
    _finish(result, path)
    return 0


def _tasks(arguments: argparse.Namespace, argv: list[str]) -> int:
    if arguments.device != "cpu" or arguments.threads not in (None, (1,)) or arguments.dtype != "float32":
        raise ValueError("tasks: batches are made on one core of the CPU, without --device, --dtype, --threads")
    names, settings = tasks.select_tasks(arguments.only), replace(_settings(arguments), threads=(1,))
    result, path = _begin(arguments, argv, settings)
    progress = Progress(len(names))
    for name in names:
        progress.begin(name)
        result["rows"].append(tasks.run_task(name, settings.quick, settings.plan, progress))
    progress.end()
    show(views.tasks_table(result["rows"]))
    _show_goals(result, [] if settings.quick else goals.task_goals(result["rows"]))
    _finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))


def _shape(arguments: argparse.Namespace, default: Shape) -> Shape:
    length, width = (32, 32) if arguments.quick else (default.length, default.d_model)
    return Shape(default.batch, arguments.length or length, arguments.d_model or width)


def _show_goals(result: record.Record, results: list[tuple[str, str, bool]]) -> None:
    result["goals"] = [{"goal": text, "measured": measured, "met": met} for text, measured, met in results]
    if results:
        show(views.goals_table(results))


def _report(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.benchmarks.report import write

    for path in write([record.load(file) for file in arguments.files], arguments.docs):
        print(f"written to {path}")
    return 0
