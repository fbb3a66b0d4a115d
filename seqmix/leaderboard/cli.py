"""The command line of `seqmix leaderboard`."""

import argparse
import importlib.util
import os
import sys
import warnings
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmix.leaderboard import cli_page, cli_records
from seqmix.leaderboard.write_options import add_write_options, check_write_options, print_or_write

if TYPE_CHECKING:
    from seqmix.leaderboard.cluster import ClusterJobs
    from seqmix.leaderboard.local import LocalProcesses
    from seqmix.leaderboard.plan import Run
    from seqmix.leaderboard.sweep import Plan

__all__ = ["add_sweep_options", "main", "make_records", "tell", "told"]

_EPILOG = """examples:
  seqmix leaderboard run board.yaml --store boards/board.jsonl --jobs 2
  seqmix leaderboard run a5 --seeds 0 1 2 3 4 --store boards/a5.jsonl
  seqmix leaderboard report boards/a5.jsonl --kind seeds --solved 16:0.99 64:0.6 --write README.md --section a5
  seqmix leaderboard run parity parity-mamba --lr 1e-3 3e-3 1e-2 --store boards/parity.jsonl --jobs 2
  seqmix leaderboard report boards/parity.jsonl --kind summary --solved 2x:0.95
  seqmix leaderboard page boards/*.jsonl --out site
  seqmix leaderboard validate boards/*.jsonl
  seqmix leaderboard rerun 7c5d0330 --store boards/a5.jsonl
  seqmix leaderboard convert boards/a5.jsonl a5.parquet

A sweep that was stopped continues when it is started again. What a record holds: docs/leaderboard.md"""


def main(argv: list[str] | None = None) -> int:
    """Run `seqmix leaderboard` with these arguments; returns the exit status.

    0: done; 1: a run has failed, or a file has lines that are no records; 2: a mistake in the arguments; 130: stopped.
    """
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = _parser().parse_args(argv)
    return told("seqmix leaderboard", lambda: arguments.action(arguments, argv))


def told(program: str, action: Callable[[], int]) -> int:
    """The exit status of `action`; its mistakes and warnings are told in one line each."""
    try:
        with warnings.catch_warnings():
            from seqmix.leaderboard.runs import TornLineWarning

            warnings.filterwarnings("always", category=TornLineWarning)
            warnings.showwarning = _show_warning
            return action()
    except BrokenPipeError:
        # Whoever read the table has seen enough; the interpreter must not write the rest when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (ValueError, ImportError, OSError) as error:
        if isinstance(error, ImportError) and "pip install" not in str(error):
            raise
        print(f"{program}: error: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "seqmix leaderboard",
        description="Run configs with many seeds and learning rates, record every run, and make tables of them.",
        epilog=_EPILOG,
        formatter_class=raw,
        allow_abbrev=False,
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    text = "do every (config, learning rate, seed) that a file has no record of yet"
    run = commands.add_parser("run", help=text, description=text, allow_abbrev=False)
    add_sweep_options(run)
    run.add_argument("--lr", nargs="+", type=float, metavar="RATE", help="learning rates; default each config's own")
    run.set_defaults(action=_run)

    text = "a Markdown table of runs"
    report = commands.add_parser("report", help=text, description=text, allow_abbrev=False)
    report.add_argument("files", nargs="+", type=Path, metavar="PATH", help="FILE.jsonl, or the folder of a submission")
    report.add_argument(
        "--kind",
        choices=("seeds", "summary", "text", "board"),
        default="summary",
        help="seeds: a row for each seed, and the median; summary (default): a row for each config; text: the same "
        "for runs on text, in bits per byte; board: entries by tasks, with ranks",
    )
    report.add_argument("--only", nargs="+", default=[], metavar="PATTERN", help="shell patterns of config names")
    report.add_argument(
        "--solved",
        nargs="+",
        metavar="LENGTH:ACCURACY",
        help="when a run is solved: 16:0.99 64:0.6 for both, 2x:0.95 in training lengths, last:80:0.95 by another "
        "measure (last, seq, tok, free_seq, free_tok) than the task's own; default 1x:0.99",
    )
    report.add_argument(
        "--lengths",
        nargs="+",
        metavar="T",
        help="columns, lengths or names of test sets, with another measure than the task's own in front as in "
        "free_seq:16; default all that were tested",
    )
    add_write_options(report)
    report.add_argument(
        "--figure",
        type=Path,
        metavar="FILE.svg",
        help="draw accuracy at the training length over the state's size",
    )
    report.set_defaults(action=_report)

    cli_page.add_command(commands)
    cli_records.add_commands(commands)
    return parser


def add_sweep_options(run: argparse.ArgumentParser, *, configs: bool = True, seeds: Sequence[int] = (0,)) -> None:
    """Options of every command that makes records; those that choose their own config do without `configs`."""
    if configs:
        run.add_argument(
            "configs", nargs="+", metavar="CONFIG", help="names of shipped configs, or files; or one board"
        )
    text = f"default {seeds[0]}" + (f" to {seeds[-1]}" if len(seeds) > 1 else "")
    run.add_argument("--seeds", nargs="+", type=int, default=list(seeds), metavar="N", help=text)
    run.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="on top of every config, as options of seqmix fit: trainer.max_steps=500 mixer.block_size=4",
    )
    run.add_argument("--store", type=Path, required=True, metavar="FILE.jsonl", help="where records go")
    run.add_argument("--jobs", type=_positive, default=1, metavar="N", help="runs at a time, default 1")
    run.add_argument("--threads", type=_positive, default=1, metavar="N", help="threads of each run, default 1")
    run.add_argument(
        "--submitit",
        nargs="+",
        metavar=("FOLDER", "PARAMETER=VALUE"),
        help="run each as a job of SLURM, by submitit, with its files in FOLDER, which all machines see; parameters "
        "are submitit's: timeout_min=30 mem_gb=8 slurm_partition=cpu, or cluster=local for processes of this machine",
    )
    run.add_argument("--retry-failed", action="store_true", help="try again what has failed twice")
    run.add_argument("--dry-run", action="store_true", help="print the runs as command lines, and do none")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix._suggest import unknown_name
    from seqmix.leaderboard.board import find_board, list_boards
    from seqmix.leaderboard.plan import plan_runs
    from seqmix.training.config_files import list_configs

    boards = {name: path for name in arguments.configs if (path := find_board(name)) is not None}
    if boards:
        return _run_board(boards, arguments)
    known = {*list_configs(), *list_boards()}
    for name in arguments.configs:
        if not Path(name).suffix and name not in known:
            raise unknown_name("config or board", name, known)
    runs = plan_runs(arguments.configs, arguments.seeds, arguments.lr, arguments.set)
    return make_records(runs, arguments, "seqmix leaderboard")


def _run_board(boards: dict[str, Path], arguments: argparse.Namespace) -> int:
    from seqmix.leaderboard.board import load_board
    from seqmix.leaderboard.board_plan import BoardPlan, sizes_table

    if len(arguments.configs) > 1:
        raise ValueError(f"CONFIG: a board stands alone, got {next(iter(boards))!r} among {len(arguments.configs)}")
    for option, given in (("--lr", arguments.lr), ("--seeds", arguments.seeds != [0]), ("--set", arguments.set)):
        if given:
            raise ValueError(f"{option}: a board has its own, in its file")
    _require_training("seqmix leaderboard")
    (path,) = boards.values()
    plan = BoardPlan(load_board(path))
    if arguments.dry_run:
        print(sizes_table(plan))
        return 0
    return make_records(plan, arguments, "seqmix leaderboard")


def _require_training(program: str) -> None:
    from seqmix._extras import require

    # Not Lightning itself, which takes seconds: the runs import it.
    for module in ("lightning", "jsonargparse"):
        if importlib.util.find_spec(module) is None:
            require(module, extra="train", owner=program)


def make_records(plan: "Sequence[Run] | Plan", arguments: argparse.Namespace, program: str) -> int:
    """Do what `arguments.store` has no record of, or print it with `--dry-run`; returns the exit status."""
    from seqmix.leaderboard.runs import RunStore
    from seqmix.leaderboard.sweep import sweep

    _require_training(program)
    if arguments.dry_run:
        print("\n".join(run.command for run in (plan if isinstance(plan, Sequence) else plan.runs({}))))
        return 0
    if not arguments.store.parent.is_dir() or arguments.store.is_dir():
        raise ValueError(f"--store: expected a file in a folder that exists, got {str(arguments.store)!r}")
    store = RunStore(arguments.store)
    store.refresh()
    tell(store.problems)
    try:
        with closing(_runner(arguments)) as runner:
            failed = sweep(plan, store, runner, jobs=arguments.jobs, retry_failed=arguments.retry_failed)
    except KeyboardInterrupt:
        print(f"{program}: stopped; the same command continues", file=sys.stderr)
        return 130
    return 1 if failed or store.problems else 0


def _runner(arguments: argparse.Namespace) -> "LocalProcesses | ClusterJobs":
    if not arguments.submitit:
        from seqmix.leaderboard.local import LocalProcesses

        store: Path = arguments.store
        return LocalProcesses(store.with_name(f".{store.name}.runs"), arguments.threads, arguments.jobs)
    from seqmix.leaderboard.cluster import ClusterJobs
    from seqmix.training.config_files import parse_value

    place, *parameters = arguments.submitit
    if any("=" not in text for text in parameters) or "=" in place:
        raise ValueError(f"--submitit: expected FOLDER and then PARAMETER=VALUE, got {' '.join(arguments.submitit)!r}")
    values = {text.partition("=")[0]: parse_value(text.partition("=")[2]) for text in parameters}
    return ClusterJobs(Path(place), arguments.threads, values)


def _report(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix.leaderboard.report import collect, render
    from seqmix.leaderboard.statistics import Criterion
    from seqmix.leaderboard.tables import COLUMN_MEASURES

    check_write_options(arguments)
    if arguments.kind == "board" and (arguments.solved or arguments.lengths):
        raise ValueError("--kind board: it decides --solved and --lengths itself, expected neither")
    try:
        criteria = [Criterion.parse(text) for text in arguments.solved or ["1x:0.99"]]
    except ValueError as error:
        raise ValueError(f"--solved: {error}") from None
    records, problems = collect(arguments.files, arguments.only)
    tell(problems)
    for column in arguments.lengths or ():
        measure, colon, _ = column.rpartition(":")
        if colon and measure not in COLUMN_MEASURES:
            raise ValueError(
                f"--lengths: expected one of {', '.join(COLUMN_MEASURES)} before the colon, got {column!r}"
            )
    if arguments.figure is not None:
        from seqmix.leaderboard.state_figure import draw, state_curves

        if arguments.figure.suffix != ".svg":
            raise ValueError(f"--figure: expected a name that ends in .svg, got {str(arguments.figure)!r}")
        draw(arguments.figure, state_curves(records))
    text = render(records, arguments.kind, criteria=criteria, lengths=arguments.lengths)
    print_or_write(text, arguments, ["seqmix", "leaderboard", *argv])
    return 1 if problems else 0


def tell(problems: list[str]) -> None:
    """Print what is wrong with lines of a file."""
    for problem in problems:
        print(f"seqmix leaderboard: {problem}", file=sys.stderr)


def _show_warning(message: Warning | str, *args: Any, **kwargs: Any) -> None:
    print(f"seqmix leaderboard: warning: {message}", file=sys.stderr)
