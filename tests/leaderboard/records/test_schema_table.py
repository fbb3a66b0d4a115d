"""The documented fields are the fields."""

from pathlib import Path

import pytest

from seqmix.commands.leaderboard.cli import main
from seqmix.leaderboard.records import schema
from seqmix.leaderboard.records.schema_table import schema_table

DOCS = Path(__file__).parents[3] / "docs/leaderboard.md"


def test_the_page_says_what_the_schema_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "leaderboard.md"
    copy.write_text(DOCS.read_text())
    assert main(["schema", "--write", str(copy), "--section", "records"]) == 0
    assert "says so already" in capsys.readouterr().out, "run the command that stands below the table"
    assert main(["schema"]) == 0
    assert capsys.readouterr().out.strip() == schema_table()
    assert main(["schema", "--write", str(copy)]) == 2


def test_every_field_is_explained_once(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = schema_table().splitlines()
    assert (
        "| `identity.seed`, `identity.data_seed` | integer; integer or null | of the weights, of the training"
        in str(lines)
    )
    assert all(line.split(" | ")[-1].strip(" |") for line in lines[2:-2])
    text = schema.__doc__ or ""
    for wrong, odd in (
        (text.replace("    precision, clip ", "    precision "), "training.clip"),
        (text.replace("    config_hash ", "    config_hush "), "identity.config_h"),
        (text.replace("    restarts ", "    best_step "), "result."),
    ):
        monkeypatch.setattr(schema, "__doc__", wrong)
        with pytest.raises(ValueError, match=rf"explain every field once; it does not .*{odd}"):
            schema_table()
