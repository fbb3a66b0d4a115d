"""`seqmix leaderboard run`, and what other commands that make records share with it."""

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmix._files import check_output
from seqmix._signals import Interrupted
from seqmix._trust import import_trusted
from seqmix.commands._messages import silence, tell
from seqmix.commands._options import add_trust_option, positive

if TYPE_CHECKING:
    from seqmix.leaderboard.sweep.cluster import ClusterJobs
    from seqmix.leaderboard.sweep.local import LocalProcesses
    from seqmix.leaderboard.sweep.loop import Plan
    from seqmix.leaderboard.sweep.plan import Run

__all__ = ["add_command", "add_sweep_options", "make_records"]


def add_command(commands: Any) -> None:
    """Add `run` to the commands of `seqmix leaderboard`."""
    run = commands.add_parser("run", help="do every (config, learning rate, seed) that a file has no record of yet")
    add_sweep_options(run)
    run.add_argument("--lr", nargs="+", type=float, metavar="RATE", help="learning rates; default each config's own")
    add_trust_option(run)
    run.set_defaults(action=_run)


def add_sweep_options(run: argparse.ArgumentParser, *, configs: bool = True, seeds: Sequence[int] = (0,)) -> None:
    """Options of every command that makes records; those that choose their own config do without `configs`."""
    if configs:
        run.add_argument(
            "configs", nargs="+", metavar="CONFIG", help="names of shipped configs, or files; or one board or grid"
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
    run.add_argument("--jobs", type=positive, default=1, metavar="N", help="runs at a time, default 1")
    run.add_argument("--threads", type=positive, default=1, metavar="N", help="threads of each run, default 1")
    run.add_argument(
        "--submitit",
        nargs="+",
        metavar=("FOLDER", "PARAMETER=VALUE"),
        help="run each as a job of SLURM, by submitit, with its files in FOLDER, which all machines see; parameters "
        "are submitit's: timeout_min=30 mem_gb=8 slurm_partition=cpu, or cluster=local for processes of this machine",
    )
    run.add_argument("--retry-failed", action="store_true", help="try again what has failed for good")
    run.add_argument("--dry-run", action="store_true", help="print the runs as command lines, and do none")


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix._suggest import unknown_name
    from seqmix.leaderboard.boards.board import find_board, list_boards
    from seqmix.leaderboard.boards.grid import find_grid, list_grids
    from seqmix.leaderboard.sweep.plan import plan_runs
    from seqmix.training.config.files import list_configs

    boards = {name: path for name in arguments.configs if (path := find_board(name)) is not None}
    grids = {name: path for name in arguments.configs if name not in boards and (path := find_grid(name)) is not None}
    if boards or grids:
        path = _alone({**boards, **grids}, arguments)
        import_trusted(arguments.trust)
        return _run_board(path, arguments) if boards else _run_grid(path, arguments)
    if arguments.trust:
        raise ValueError("--trust: a config that is trained is yours, and is not asked for; it is for boards and grids")
    known = {*list_configs(), *list_boards(), *list_grids()}
    for name in arguments.configs:
        if not Path(name).suffix and name not in known:
            raise unknown_name("config, board or grid", name, known)
    runs = plan_runs(arguments.configs, arguments.seeds, arguments.lr, arguments.set)
    return make_records(runs, arguments, "seqmix leaderboard")


def _alone(files: dict[str, Path], arguments: argparse.Namespace) -> Path:
    """The file of the one board or grid, which has its own of everything."""
    name, path = next(iter(files.items()))
    if len(arguments.configs) > 1:
        raise ValueError(f"CONFIG: a board stands alone, and so does a grid, got {name!r} and more")
    for option, given in (("--lr", arguments.lr), ("--seeds", arguments.seeds != [0]), ("--set", arguments.set)):
        if given:
            raise ValueError(f"{option}: a board has its own, and so has a grid, in its file")
    return path


def _run_board(path: Path, arguments: argparse.Namespace) -> int:
    from seqmix.leaderboard.boards.board import load_board
    from seqmix.leaderboard.boards.plan import BoardPlan, sizes_table

    _require_training("seqmix leaderboard")
    plan = BoardPlan(load_board(path, trust=arguments.trust))
    if arguments.dry_run:
        print(sizes_table(plan))
        return 0
    return make_records(plan, arguments, "seqmix leaderboard")


def _run_grid(path: Path, arguments: argparse.Namespace) -> int:
    from seqmix.leaderboard.boards.grid import grid_runs
    from seqmix.training.foreign import check_settings

    runs = grid_runs(path)
    for run in runs:
        check_settings(run.settings, arguments.trust, f"grid {path}")
    return make_records(runs, arguments, "seqmix leaderboard")


def _require_training(program: str) -> None:
    from seqmix._extras import require

    # Not Lightning itself, which takes seconds: the runs import it.
    for module in ("lightning", "jsonargparse"):
        if importlib.util.find_spec(module) is None:
            require(module, extra="train", owner=program)


def make_records(plan: "Sequence[Run] | Plan", arguments: argparse.Namespace, program: str) -> int:
    """Do what `arguments.store` has no record of, or print it with `--dry-run`; returns the exit status."""
    from seqmix.leaderboard.records.store import RunStore
    from seqmix.leaderboard.sweep.loop import sweep

    _require_training(program)
    if arguments.dry_run:
        print("\n".join(run.command for run in (plan if isinstance(plan, Sequence) else plan.runs({}))))
        return 0
    check_output("--store", arguments.store)
    store = RunStore(arguments.store)
    store.require_store()
    tell(store.problems)
    try:
        with closing(_runner(arguments)) as runner:
            failed = sweep(plan, store, runner, jobs=arguments.jobs, retry_failed=arguments.retry_failed)
    except (KeyboardInterrupt, Interrupted):
        print(f"{program}: stopped; the same command continues", file=sys.stderr)
        return 130
    except BrokenPipeError:
        silence()
        return 141
    return 1 if failed or store.problems else 0


def _runner(arguments: argparse.Namespace) -> "LocalProcesses | ClusterJobs":
    if not arguments.submitit:
        from seqmix.leaderboard.sweep.local import LocalProcesses

        store: Path = arguments.store
        return LocalProcesses(store.with_name(f".{store.name}.runs"), arguments.threads, arguments.jobs)
    from seqmix.leaderboard.sweep.cluster import ClusterJobs
    from seqmix.training.config.files import parse_value

    place, *parameters = arguments.submitit
    if any("=" not in text for text in parameters) or "=" in place:
        raise ValueError(f"--submitit: expected FOLDER and then PARAMETER=VALUE, got {' '.join(arguments.submitit)!r}")
    values = {text.partition("=")[0]: parse_value(text.partition("=")[2]) for text in parameters}
    return ClusterJobs(Path(place), arguments.threads, values)
