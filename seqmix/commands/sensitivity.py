"""The command line of `seqmix sensitivity`."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seqmix._files import check_output
from seqmix.commands._messages import exits, tell, torn_lines_told
from seqmix.commands._options import Parser
from seqmix.commands._write_options import add_write_options, check_write_options, print_or_write
from seqmix.commands.leaderboard.run import add_sweep_options, make_records

if TYPE_CHECKING:
    from seqmix.leaderboard.sweep.plan import Run
    from seqmix.studies.sensitivity import Contender, Curve

__all__ = ["main"]

_EPILOG = """examples:
  seqmix sensitivity a5 --optimizers adamw lion '{name: ngn-m, lr: [1e-2, 1e4]}' --store boards/rates.jsonl
  seqmix sensitivity parity --mixers bd-lru mamba --lr 1e-4 1e-1 --points 9 --store boards/rates.jsonl --jobs 2
  seqmix sensitivity a5 --optimizers adamw muon --seeds-at-best 0 1 2 --store boards/rates.jsonl \\
      --figure docs/rates.svg --write docs/rates.md --section rates

Runs are those of `seqmix leaderboard run`, in records of the same kind. What FILE.jsonl has is not run again: a sweep
that was stopped continues, and a finished one is reported at once."""


@exits("seqmix sensitivity")
def main(argv: list[str]) -> int:
    """Run `seqmix sensitivity`; returns the exit status, as `seqmix leaderboard` does."""
    arguments = _parser().parse_args(argv)
    with torn_lines_told():
        return _run(arguments, argv)


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "seqmix sensitivity",
        description="Loss against learning rate for several optimizers or mixers: best, median, mean excess loss.",
        epilog=_EPILOG,
    )
    add_sweep_options(parser)
    entries = "names, or entries such as '{name: lion, betas: [0.9, 0.98], label: slow}'"
    parser.add_argument(
        "--optimizers",
        nargs="+",
        default=[],
        metavar="ENTRY",
        help=f"{entries}; `lr: [LOW, HIGH]` in one is its own range; default the config's",
    )
    parser.add_argument("--mixers", nargs="+", default=[], metavar="ENTRY", help=f"{entries}; default the config's")
    parser.add_argument(
        "--lr", nargs=2, type=float, default=[1e-4, 1e-1], metavar=("LOW", "HIGH"), help="default 1e-4 1e-1"
    )
    parser.add_argument("--points", type=int, default=7, metavar="N", help="rates at equal ratios, default 7")
    parser.add_argument("--seeds-at-best", nargs="+", type=int, default=[], metavar="N", help="more at the best rate")
    parser.add_argument(
        "--ceiling",
        type=float,
        metavar="LOSS",
        help="loss at the start of training, which none counts above; default that of a guess at chance",
    )
    parser.add_argument("--report-only", action="store_true", help="run nothing: report the seeds that there are")
    parser.add_argument("--figure", type=Path, metavar="FILE", help="loss against learning rate, .svg or .png")
    add_write_options(parser)
    return parser


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    from seqmix._files import write_bytes_whole
    from seqmix.studies.sensitivity import contenders, draw, table

    check_write_options(arguments)
    if arguments.figure is not None:
        check_output("--figure", arguments.figure, ".svg", ".png")
    if arguments.ceiling is not None and not 0 < arguments.ceiling < float("inf"):
        raise ValueError(f"--ceiling: expected a positive loss, got {arguments.ceiling!r}")
    every = contenders(
        arguments.configs, arguments.optimizers, arguments.mixers, arguments.lr, arguments.points, arguments.set
    )
    for each in every:
        _check(each.run(each.rates[0], 0))
    runs = [each.run(rate, seed) for seed in arguments.seeds for each in every for rate in each.rates]
    status = 0 if arguments.report_only else make_records(runs, arguments, "seqmix sensitivity")
    if arguments.dry_run or status == 130:
        return status
    curves = _curves(every, arguments)
    if arguments.seeds_at_best and not arguments.report_only:
        runs = [each.contender.run(each.best_rate, seed) for seed in arguments.seeds_at_best for each in curves]
        status = max(status, make_records(runs, arguments, "seqmix sensitivity"))
        if status == 130:
            return status
        curves = _curves(every, arguments)
    text = table(curves)
    if arguments.figure is not None:
        data = draw(curves, arguments.figure.suffix[1:])
        write_bytes_whole(arguments.figure, data)
    print_or_write(text, arguments, ["seqmix", "sensitivity", *argv])
    return status


def _check(run: "Run") -> None:
    """Unknown optimizers, mixers or arguments of theirs are told before the sweep, not by every run."""
    from seqmix.mixers.registry import get_mixer
    from seqmix.optim.registry import check_optimizer

    optimizer, mixer = run.settings.get("optimizer"), run.settings.get("mixer")
    if isinstance(optimizer, dict):
        if not isinstance(optimizer.get("name"), str):
            raise ValueError(f"optimizer: expected a name beside its arguments, got {optimizer!r:.80}")
        check_optimizer(**optimizer)
    for spec in mixer if isinstance(mixer, list) else [mixer]:
        if spec is not None:
            get_mixer(spec["name"] if isinstance(spec, dict) and "name" in spec else spec)


def _curves(every: "list[Contender]", arguments: argparse.Namespace) -> "list[Curve]":
    from seqmix.leaderboard.records.store import latest, scan_runs
    from seqmix.studies.sensitivity import curve

    records, problems = scan_runs(arguments.store)
    tell(problems)
    by_id = {record["id"]: record for record in latest(records)}
    seeds = dict.fromkeys([*arguments.seeds, *arguments.seeds_at_best])
    found = []
    for each in every:
        runs: dict[float, list[Any]] = {}
        for rate in each.rates:
            ids = [each.run(rate, seed).id for seed in seeds]
            runs[rate] = [by_id[key] for key in ids if key in by_id]
        found.append(curve(each, runs, arguments.seeds, arguments.ceiling))
    return found
