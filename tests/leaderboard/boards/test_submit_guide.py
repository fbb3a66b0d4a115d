"""docs/submit.md, walked through as a new user would."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from seqmix.leaderboard import read_submission

ROOT = Path(__file__).parents[3]
# The guide's board takes minutes: the same row on a smaller one.
SMALL = """name: small
budget: {parameters: 3000}
tasks:
  parity: {config: parity, set: {trainer.max_steps: 4, trainer.val_check_interval: 2, data.batch_size: 4,
    data.eval_size: 4, data.eval_lengths: [4, 8], data.train_length: 4}}
rates: [0.001, 0.01]
seeds: {grid: [0], best: [0, 1]}
"""


@pytest.mark.slow
def test_from_a_module_to_a_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "keys"))
    text = (ROOT / "docs/submit.md").read_text()
    folder = tmp_path / "submissions" / "my-gru"
    folder.mkdir(parents=True)
    for name, code in re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', text, re.MULTILINE | re.DOTALL):
        (folder / name).write_text(code)
    assert {path.name for path in folder.iterdir()} == {"layer.py", "board.yaml", "meta.yaml"}
    board = (folder / "board.yaml").read_text()
    assert board.startswith("base: cpu\ntasks: [parity]\n")
    (folder / "board.yaml").write_text(SMALL + board.partition("tasks: [parity]\n")[2])
    commands = [
        line.split()
        for block in re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for line in block.splitlines()
    ]
    assert [command[2] for command in commands] == ["run", "run", "validate", "report"]
    for command in commands:
        assert command[0] == "seqmix"
        done = subprocess.run(
            [sys.executable, "-m", "seqmix", *command[1:]], cwd=folder, capture_output=True, text=True
        )
        assert done.returncode == 0, f"{command}: {done.stderr}\n{done.stdout}"
    found = read_submission(folder)
    assert (found.problems, found.badge, len(found.runs)) == ([], "re-run", 3)
    assert {record["identity"]["mixer"] for record in found.records} == {"layer:MyGRU"}
