"""Runs the tests as other processors would: narrower vectors, more threads, code for a generic CPU.

    python -m tests.matrix                        the default tests, in every row
    python -m tests.matrix tests/kernels -k scan  part of them (paths and -k as pytest has them)
    python -m tests.matrix --slow --row avx2      the slow ones, in the rows whose name has "avx2"

Every two settings of two columns meet in some row. ATen, MKL and oneDNN choose their code by the processor each on its
own, so a row tells all three; a processor can only imitate a lesser one.
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
WIDTHS = {
    "native": {},
    "default": {"ATEN_CPU_CAPABILITY": "default", "MKL_ENABLE_INSTRUCTIONS": "SSE4_2", "ONEDNN_MAX_CPU_ISA": "SSE41"},
    "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
# Numba's cache is asked by the kernel's source; what was compiled for one processor must not meet another.
NUMBA = {
    "native": {},
    "generic": {"NUMBA_CPU_NAME": "generic", "NUMBA_CACHE_DIR": str(ROOT / ".numba" / "generic")},
}


class Row(NamedTuple):
    vectors: str
    threads: int
    numba: str

    @property
    def name(self) -> str:
        return f"{self.vectors}-{self.threads}-{self.numba}"


ROWS = [
    Row("native", 1, "native"),
    Row("native", 2, "generic"),
    Row("default", 1, "native"),
    Row("default", 2, "generic"),
    Row("avx2", 2, "native"),
    Row("avx2", 1, "generic"),
]


def environment(row: Row) -> dict[str, str]:
    settings = WIDTHS[row.vectors] | NUMBA[row.numba] | {"OMP_NUM_THREADS": str(row.threads)}
    taken = {name for kinds in (WIDTHS, NUMBA) for kind in kinds.values() for name in kind}
    return {name: value for name, value in os.environ.items() if name not in taken} | settings


def log_of(row: Row) -> Path:
    """Where a row's output stands, while it runs, too."""
    return Path(tempfile.gettempdir()) / f"seqmix-matrix-{row.name}.log"


def pytest_arguments(row: Row, chosen: argparse.Namespace) -> list[str]:
    jobs = max(1, chosen.jobs // row.threads)
    arguments = ["-q", "--tb=short", "-rfE", *chosen.paths]
    arguments += ["-n", str(jobs), "--dist", "worksteal"] if jobs > 1 else []
    arguments += ["-k", chosen.k] if chosen.k else []
    return arguments + (["-m", "slow and not gpu"] if chosen.slow else [])


def run(row: Row, chosen: argparse.Namespace) -> tuple[dict[str, int], list[str], float]:
    """Outcomes by name, one line for each failed test, seconds."""
    started = time.monotonic()
    command = [sys.executable, "-m", "pytest", *pytest_arguments(row, chosen)]
    log = log_of(row)
    with log.open("w") as file:
        result = subprocess.run(command, cwd=ROOT, env=environment(row), stdout=file, stderr=subprocess.STDOUT)
    text = log.read_text()
    lines = text.splitlines()
    counts = re.findall(r"(\d+) (passed|failed|error|skipped)", lines[-1] if lines else "")
    outcomes = {what: int(number) for number, what in counts}
    red = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    if result.returncode and not red:
        red = [f"pytest ended with {result.returncode}: {text[-500:]}"]
    return outcomes, red, time.monotonic() - started


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.matrix", description="the tests as other processors do")
    parser.add_argument("paths", nargs="*", help="files or folders of tests, all unless given")
    parser.add_argument("-k", help="as pytest's")
    parser.add_argument("--slow", action="store_true", help="the slow tests instead of the default ones")
    parser.add_argument("--row", default="", help="only the rows whose name has this in it")
    parser.add_argument("--jobs", type=int, default=2, help="cores to use: processes times threads")
    chosen = parser.parse_args()
    rows = [row for row in ROWS if chosen.row in row.name]
    if not rows:
        parser.error(f"--row: no row has {chosen.row!r} in its name, which are {', '.join(r.name for r in ROWS)}")
    print(f"{'vectors':>8} {'threads':>8} {'numba':>8} {'passed':>8} {'failed':>8} {'skipped':>8} {'seconds':>8}")
    every: list[str] = []
    for row in rows:
        print(f"{row.name}: the output stands in {log_of(row)}", file=sys.stderr)
        outcomes, red, seconds = run(row, chosen)
        passed, skipped = outcomes.get("passed", 0), outcomes.get("skipped", 0)
        failed = max(len(red), outcomes.get("failed", 0) + outcomes.get("error", 0))
        print(*(f"{cell:>8}" for cell in (*row, passed, failed, skipped, round(seconds))), flush=True)
        every += [f"{row.name}: {line}" for line in red]
    print(*every, sep="\n")
    return int(bool(every))


if __name__ == "__main__":
    sys.exit(main())
