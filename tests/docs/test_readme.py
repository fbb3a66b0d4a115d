"""The README is short, and its commands run, one after the other, in a fresh clone."""

import csv
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT, blocks

README = ROOT / "README.md"


def commands() -> list[list[str]]:
    lines = [line for block in blocks(README) if block.language == "bash" for line in block.code.splitlines()]
    return [shlex.split(line, comments=True) for line in lines if line.strip()]


def test_it_is_short_and_has_eight_commands() -> None:
    text = README.read_text()
    assert len(text.splitlines()) <= 130
    assert len(commands()) == 8
    assert text.count("\n![") == 1 and (ROOT / "docs/length.svg").is_file()
    for word in ("*token mixer*", "*word*", "*letters*", "*restart*", "*volume*", "*Solved 4 of 5 (.38 to .96)*"):
        assert word in text, f"{word} is explained"


@pytest.mark.slow
def test_its_commands_run_in_a_fresh_clone(tmp_path: Path) -> None:
    clone, here = tmp_path / "clone", tmp_path / "installed"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    (config,) = [block.code for block in blocks(README) if block.language == "yaml"]
    (clone / "my.yaml").write_text(config)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(here), str(clone)]), "OMP_NUM_THREADS": "1"}
    for words in commands():
        if words[0] == "pip":
            # What it needs is here, and a second environment would take minutes: the package alone, elsewhere.
            where = ["--no-deps", "--no-build-isolation", "--no-index", "--target", str(here)]
            words = [sys.executable, "-m", *words, *where]
        else:
            words = [sys.executable, "-m", *words]
        done = subprocess.run(words, cwd=clone, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, f"{shlex.join(words)}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        if "certify" in words:
            assert done.stdout.startswith("your network: proved up to length ") and "every length" in done.stdout
    with (clone / "runs/my/1/accuracy.csv").open() as file:
        accuracy = {row["length"]: float(row["sequence_accuracy"]) for row in csv.DictReader(file)}
    assert accuracy["256"] >= 0.99, "the config of the README generalises"
    with (clone / "runs/a5/1/accuracy.csv").open() as file:
        assert min(float(row["sequence_accuracy"]) for row in csv.DictReader(file)) >= 0.99
    assert (clone / "board/index.html").is_file() and len((clone / "runs.jsonl").read_text().splitlines()) == 20
    shutil.rmtree(clone)
