"""Damaged files and arguments, over every command: one line, and nothing outside, nothing run, no traceback."""

import subprocess
import sys

import pytest

from tests.forked import ROOT

NOTICED = """
import os, subprocess, sys, tempfile, time
from pathlib import Path
from tests.forked import forked

def bomb():
    kept = bytearray(2**28)
    return kept.count(1)

bad = {
    "outside": lambda: Path("../outside").write_text("x"),
    "link": lambda: os.symlink("/etc/passwd", "../link"),
    "made": lambda: os.mkdir("../made"),
    "run": lambda: subprocess.run(["true"]),
    "git": lambda: subprocess.run(["git", "-C", "/", "status"]),
    "system": lambda: os.system("true"),
    "imported": lambda: __import__("planted"),
    "unpickled": lambda: __import__("pickle").loads(b"cos\\ngetpid\\n."),
    "bomb": bomb,
    "late": lambda: time.sleep(60),
    "error": lambda: 1 / 0,
    "good": lambda: Path("inside").write_text("x") and 0,
}
with tempfile.TemporaryDirectory() as name:
    folder = Path(name) / "in"
    (folder / "tmp").mkdir(parents=True)
    (folder / "planted.py").write_text("")
    sys.path.append(str(folder))
    for what, action in bad.items():
        ended = forked(action, folder, seconds=20 if what != "late" else 1)
        print(what, bool(ended.events), ended.peak > 2**28, "Traceback" in ended.said)
"""


def alone(*words: str) -> str:
    """What Python says in a process of its own: forks of this one would have its threads."""
    ended = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


@pytest.mark.slow
def test_what_a_command_must_not_do_is_noticed() -> None:
    seen = {name: facts for name, *facts in map(str.split, alone("-c", NOTICED).splitlines())}
    held = seen["good"][1]  # torch may take as much
    for name in ("outside", "link", "made", "run", "git", "system", "imported", "unpickled", "late"):
        assert seen[name][0] == "True", name
    assert seen["good"] == ["False", held, "False"]
    assert seen["error"] == ["False", held, "True"] and seen["bomb"][1] == "True"


@pytest.mark.slow
@pytest.mark.parametrize("first", range(0, 2000, 500))
def test_damaged_files_and_command_lines(first: int) -> None:
    """More of them, or some alone: `python -m tests.hostile_files 2000 --first 500`."""
    assert ": 0 wrong" in alone("-m", "tests.hostile_files", "500", "--first", str(first))


@pytest.mark.slow
def test_commands_end_quietly_where_nobody_reads_what_they_say() -> None:
    alone("-m", "tests.hostile_files", "--unread")
