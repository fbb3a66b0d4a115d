"""Without Triton, as on macOS, and without locks and forks, as on Windows: what runs, and what says why it does not.

Both are imitated in a process of its own: modules that are not there, functions that are taken out.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.leaderboard.example_records import make_record

MACOS = """
import sys
sys.modules["triton"] = None
"""
WINDOWS = (
    MACOS
    + """
import os, signal
import multiprocessing.pool, subprocess, tempfile, torch  # with what they ask the system for when they are imported
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
for name in ("fork", "register_at_fork", "pread", "sysconf", "killpg", "setsid", "getuid", "wait4"):
    delattr(os, name)
del signal.SIGCHLD
"""
)
LAYERS = """
import torch
from seqmix import SequenceModel, list_mixers
for name in NAMES:
    model = SequenceModel(name, 7, 16)
    logits, _ = model(torch.randint(7, (2, 5)))
    logits.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
"""
SYSTEMS = {"macos": MACOS, "windows": WINDOWS}


def run(system: str, code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    environment.pop("TRITON_INTERPRET", None)
    command = [sys.executable, "-c", SYSTEMS[system] + code]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_windows_reads_records_and_says_what_sweeps_lack(tmp_path: Path) -> None:
    (tmp_path / "runs.jsonl").write_text(json.dumps(make_record()) + "\n")
    code = """
from seqmix.__main__ import main
assert main(["leaderboard", "report", "runs.jsonl"]) == 0
sys.exit(main(["leaderboard", "run", "parity", "--seeds", "0", "--store", "runs.jsonl"]))
"""
    done = run("windows", LAYERS.replace("NAMES", repr(("bd-lru", "attention"))) + code, tmp_path)
    assert "| config |" in done.stdout
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "need locks and forks, which Linux and macOS have and this system does not" in done.stderr.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.parametrize("system", SYSTEMS)
def test_layers_and_training_run(system: str, tmp_path: Path) -> None:
    words = ["fit", "--config", "parity", "--trainer.max_steps", "2", "--trainer.accelerator", "cpu"]
    words += ["--data.eval_size", "4", "--data.eval_lengths", "[8]"]
    code = f"import lightning.pytorch\nfrom seqmix.__main__ import main\nsys.exit(main({words!r}))\n"
    every = LAYERS.replace("NAMES", "list_mixers()")
    done = run(system, every + code, tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "runs/parity/1/checkpoints/last.ckpt").is_file()
