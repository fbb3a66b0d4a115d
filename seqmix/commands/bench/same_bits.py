"""`seqmix bench same-bits`: what `seqmix.kernels.batch_invariant` costs."""

import argparse
from typing import Any

import torch

from seqmix.benchmarks import record
from seqmix.benchmarks.layer_setup import select_mixers
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.same_bits import run_same_bits, same_bits_goals, same_bits_table
from seqmix.benchmarks.tables import show
from seqmix.benchmarks.timing import Plan
from seqmix.commands._options import positive
from seqmix.commands.bench.shared import MIXER_CASES, add_out, begin_record, finish, show_goals


def add(commands: Any) -> None:
    """The subcommand `same-bits`."""
    text = "prefill, training and decode with the same bits for any batch, beside the same without (CPU, one thread)"
    parser = commands.add_parser("same-bits", help=text, description=text, epilog=MIXER_CASES)
    parser.add_argument("--only", metavar="PATTERN", help="patterns of mixers, separated by commas; default all")
    parser.add_argument("--repeats", type=positive, default=5, metavar="N", help="samples a contestant, default 5")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; times mean nothing")
    add_out(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    names = select_mixers(arguments.only)
    plan = Plan(arguments.repeats, 0.0 if arguments.quick else 0.05, 6.0)
    settings = {"threads": [1], "repeats": plan.repeats, "quick": arguments.quick, "memory": "system"}
    settings |= {"dtype": "float32"}
    result, path = begin_record(record.describe_run("same-bits", argv, torch.device("cpu"), settings), arguments.out)
    progress = Progress(len(names))
    result["rows"] = run_same_bits(names, arguments.quick, plan, progress.begin)
    progress.end()
    show(same_bits_table(result["rows"]))
    show_goals(result, [] if arguments.quick else same_bits_goals(result["rows"]))
    finish(result, path)
    return 0
