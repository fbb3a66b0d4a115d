"""The examples: scripts with cells, named on their pages, that run from any folder."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def test_they_are_named_where_they_are_looked_for() -> None:
    assert len(EXAMPLES) == 6
    for page in ("examples/README.md", "docs/examples.md"):
        text = (ROOT / page).read_text()
        assert all(path.name in text for path in EXAMPLES), page


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_cells(path: Path) -> None:
    text = path.read_text()
    compile(text, str(path), "exec")
    cells = re.split(r"^# %%", text, flags=re.MULTILINE)
    assert not cells[0] and cells[1].startswith(" [markdown]\n# # "), "a title first"
    for cell in cells[1:]:
        if cell.startswith(" [markdown]"):
            assert all(line.startswith("#") for line in cell.strip().splitlines()[1:])


@pytest.mark.slow
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_they_run(path: Path, tmp_path: Path) -> None:
    if path.stem == "read_records":
        pytest.importorskip("pandas")
    done = subprocess.run([sys.executable, str(path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
