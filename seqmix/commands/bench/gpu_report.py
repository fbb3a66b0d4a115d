"""`seqmix bench gpu-report`: all that there is to know of a GPU, in one command and one file.

Every part is a bench of its own in a process of its own: one that fails leaves the others.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from seqmix.benchmarks import record
from seqmix.benchmarks.report import write
from seqmix.commands._options import positive
from seqmix.commands.bench.shared import add_out, begin_record, finish, settings_from

__all__ = ["PARTS", "add"]

# Most telling first: what there is no time for stays out, and the report says so.
PARTS = (
    "numbers",
    "kernels --dtype float32 --repeats 5",
    "kernels --dtype bfloat16 --repeats 5",
    "training --dtype bfloat16 --steps 20",
    "decode --dtype bfloat16 --batch 1,16,256",
    "kernels --sweep length --repeats 3",
    "kernels --sweep block --repeats 3",
    "layers --dtype bfloat16 --repeats 3",
)
# Under the interpreter a kernel takes seconds: one op and one layer show that every part still runs.
_SHORT = {
    "kernels": "--only gated_block_scan",
    "layers": "--only lru",
    "training": "--only lru",
    "decode": "--only lru",
}
_LEAST = 20.0  # seconds that are worth beginning a part for


def add(commands: Any) -> None:
    """The subcommand `gpu-report`."""
    parser = commands.add_parser(
        "gpu-report",
        help="numbers, kernels, sweeps, training and decode on a GPU, most telling first, into one file and the docs",
    )
    parser.add_argument("--device", default="cuda", help="default cuda; cpu runs the shortest form, interpreted")
    parser.add_argument("--minutes", type=positive, default=9, metavar="N", help="when to stop, default 9")
    parser.add_argument("--docs", type=Path, help="write tables into this file, as seqmix bench report does")
    add_out(parser)
    parser.set_defaults(
        run=_run, dtype="float32", threads=None, memory="system", repeats=None, quick=False, command="gpu-report"
    )


def _run(arguments: argparse.Namespace, argv: list[str]) -> int:
    settings, end = settings_from(arguments), time.monotonic() + 60 * arguments.minutes
    short = settings.device.type == "cpu"
    if short and arguments.docs is not None:
        raise ValueError("--docs: expected none on a CPU, whose short form measures nothing that a document could say")
    facts = {"quick": short, "minutes": arguments.minutes, "memory": arguments.memory}
    result, path = begin_record(record.describe_run("gpu-report", argv, settings.device, facts), arguments.out)
    result["parts"], result["missing"] = [], []
    with tempfile.TemporaryDirectory() as folder:
        for index, part in enumerate(PARTS):
            file, left = Path(folder, f"{index}.json"), end - time.monotonic()
            if left < _LEAST:
                result["missing"].append({"part": part, "reason": "no time was left"})
                continue
            words = [*part.split(), "--device", arguments.device, "--out", str(file)]
            words += ["--quick", *_SHORT.get(words[0], "--only lru --kernels triton").split()] if short else []
            print(f"\nseqmix bench {' '.join(words[:-2])}", flush=True)
            reason = _carried_out(words, left, interpreted=short)
            if file.exists():
                result["parts"].append(record.load(file))
            if reason:
                result["missing"].append({"part": part, "reason": reason})
    for each in result["missing"]:
        print(f"seqmix bench {each['part']}: {each['reason']}")
    finish(result, path)
    if arguments.docs is not None:
        for file in write([result], arguments.docs):
            print(f"written to {file}")
    return int(bool(result["missing"]))


def _carried_out(words: list[str], seconds: float, *, interpreted: bool) -> str:
    """Why a part did not come to a good end, or nothing."""
    environment = os.environ | ({"TRITON_INTERPRET": "1"} if interpreted else {})
    command = [sys.executable, "-m", "seqmix", "bench", *words]
    try:
        status = subprocess.run(command, env=environment, timeout=seconds).returncode
    except subprocess.TimeoutExpired:
        return f"stopped after {seconds:.0f} s, when the time was over"
    return "" if status == 0 else f"ended with status {status}"
