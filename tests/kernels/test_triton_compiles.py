"""Every Triton kernel compiles for a GPU, on a machine without one; scans spill nothing and compile once for any T."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqmix.benchmarks.cases import CASES

SWEEPS = ("fp-rnn sweep", "fp-mamba sweep", "slstm loop", "m2rnn loop")
# Those that spill nothing, at the sizes of the benchmark.
SCANS = {
    "diagonal_scan",
    "diagonal_scan_complex",
    "diagonal_scan_constant",
    "block_scan",
    "gated_block_scan",
    "higher_order_scan",
    "gated_higher_order_scan",
    "causal_conv1d",
}
SCRIPT = Path(__file__).with_name("compile_kernels.py")


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton")
@pytest.mark.parametrize("case", [*(case.name for case in CASES), *SWEEPS])
def test_kernels_compile(case: str, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path)
    environment["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run([sys.executable, str(SCRIPT), case], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "Warning" not in done.stderr, done.stderr[-3000:]
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    own = [row for row in rows if row["case"] == case]
    assert own
    # Tiles of products are as short as the sequence, down to 16 rows; nothing else depends on the length.
    seen = (300, 64) if case in SCANS or case in ("fp-rnn sweep", "slstm loop", "m2rnn loop") else (300, 64, 1, 17)
    anew = [row for row in own if row["length"] not in seen]
    assert not anew, f"compiled anew for another length: {anew}"
    # A few bytes of stack are not spilled registers; a thread that spills loses hundreds.
    lean = [row for row in own if case in SCANS or re.match("(rnn|mamba)_triton", row["kernel"])]
    spilling = [row for row in lean if row["stack"] > 16]
    assert not spilling, spilling
    tiles = [row for row in own if row["kernel"].startswith("diagonal_scan.")]
    assert all(row["async"] > 0 for row in tiles), "loads of the next tile are not under way in advance"
