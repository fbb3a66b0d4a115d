"""The command line of `seqmix bench`."""

import argparse

from seqmix._signals import Interrupted
from seqmix.commands._messages import exits
from seqmix.commands._options import Parser
from seqmix.commands.bench import (
    fixed_point,
    gpu_report,
    kernels,
    layers,
    numbers,
    optimizers,
    report,
    same_bits,
    sequences,
    sweep,
    tasks,
    training,
)

__all__ = ["main"]

_WHAT = (
    "Measure speed, memory and numbers on this machine. Tables are printed; --out keeps what was measured as JSON, "
    "which `seqmix bench report` writes into pages."
)
_EPILOG = """examples:
  seqmix bench kernels --device cpu                      every op at its standard size
  seqmix bench kernels --only 'diagonal*,selective_scan' --threads 1 --out
  seqmix bench kernels --device cuda --sweep length --out    on a GPU; also --sweep block --dtype bfloat16
  seqmix bench layers --only bd-lru
  seqmix bench tasks                                     how fast every task makes its data
  seqmix bench sweep --runs 100 --seconds 10 --out       what a sweep takes beyond its runs
  seqmix bench sequences --length 131072 --ranks 2           memory and speed of sequences cut over processes
  seqmix bench training --device cuda --dtype bfloat16 --out
  seqmix bench gpu-report --out --docs docs/benchmarks.md    all of it on a GPU, within nine minutes
  seqmix bench report benchmarks/results/*/*.json --docs docs/benchmarks.md

Kernels are checked before they are timed: wrong numbers get no time and the exit status 1."""


@exits("seqmix bench")
def main(argv: list[str]) -> int:
    """Run `seqmix bench` with these arguments; returns the exit status.

    0: done; 1: a contestant's numbers were wrong or an op of seqmix failed; 2: a mistake in the arguments;
    130: interrupted, and nothing was written but what `training` and models' `decode` had measured.
    """
    arguments = _parser().parse_args(argv)
    try:
        status: int = arguments.run(arguments, argv)
        return status or 0
    except (KeyboardInterrupt, Interrupted):
        raise Interrupted("interrupted, no file was written") from None


def _parser() -> argparse.ArgumentParser:
    parser = Parser("seqmix bench", description=_WHAT, epilog=_EPILOG)
    commands = parser.add_subparsers()
    for add in (
        kernels.add,
        layers.add_layers,
        layers.add_decode,
        optimizers.add,
        fixed_point.add,
        training.add,
        tasks.add,
        numbers.add,
        gpu_report.add,
        sequences.add,
        same_bits.add,
        sweep.add,
        report.add,
    ):
        add(commands)
    return parser
