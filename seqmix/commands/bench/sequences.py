"""`seqmix bench sequences`: sequences cut over processes, beside one process that has them whole."""

import argparse
from typing import Any

import torch

from seqmix.benchmarks import record
from seqmix.benchmarks.layer_setup import select_mixers
from seqmix.benchmarks.progress import Progress
from seqmix.benchmarks.sequences import Case, run_sequences
from seqmix.benchmarks.sequences_table import sequence_goals, sequences_legend, sequences_table
from seqmix.benchmarks.tables import show
from seqmix.commands._options import positive
from seqmix.commands.bench.shared import MIXER_CASES, add_out, begin_record, finish, numbers, show_goals

_MIXERS = "bd-lru,mamba-2,attention,lstm"
_LENGTHS = (16_384, 65_536, 131_072, 262_144)


def add(commands: Any) -> None:
    """The subcommand `sequences`."""
    text = "time and memory of a training step of one long sequence, whole and cut over processes (gloo, CPU)"
    parser = commands.add_parser("sequences", help=text, description=text, epilog=MIXER_CASES)
    parser.add_argument("--only", default=_MIXERS, metavar="PATTERN", help=f"patterns of mixers, default {_MIXERS}")
    parser.add_argument("--length", type=numbers, help=f"tokens T, default {','.join(map(str, _LENGTHS))}")
    parser.add_argument("--ranks", type=numbers, help="processes beside one, default 2,4")
    parser.add_argument("--layers", type=positive, default=4, metavar="N", help="default 4")
    parser.add_argument("--d-model", type=positive, default=32, metavar="N", help="width, default 32")
    parser.add_argument("--repeats", type=positive, default=3, metavar="N", help="turns, default 3")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it works; times mean nothing")
    add_out(parser)
    parser.set_defaults(run=_run)


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    counts = arguments.ranks or ((2,) if arguments.quick else (2, 4))
    if min(counts) < 2:
        raise ValueError(f"--ranks: expected numbers of at least 2, got {min(counts)}")
    lengths = arguments.length or ((512,) if arguments.quick else _LENGTHS)
    if min(lengths) < 64 * max(counts):
        raise ValueError(f"--length: expected at least 64 tokens a rank, {64 * max(counts)}, got {min(lengths)}")
    cases = [
        Case(name, length, arguments.layers, arguments.d_model)
        for name in select_mixers(arguments.only)
        for length in lengths
    ]
    settings = {"threads": [1], "repeats": arguments.repeats, "quick": arguments.quick, "memory": "system"}
    settings |= {"ranks": list(counts), "dtype": "float32"}
    result, path = begin_record(record.describe_run("sequences", argv, torch.device("cpu"), settings), arguments.out)
    progress = Progress(len(cases))
    result["rows"] = run_sequences(cases, counts, arguments.repeats, progress.begin)
    progress.end()
    show(sequences_table(result["rows"]))
    print(sequences_legend(result["machine"]["usable_cores"]) + "\n")
    show_goals(result, [] if arguments.quick else sequence_goals(result["rows"]))
    finish(result, path)
    return int(any(row["status"] != "ok" for row in result["rows"]))
