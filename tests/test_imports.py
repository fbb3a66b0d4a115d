"""Rooms stand on those below them: the contracts in pyproject.toml hold."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def test_imports_run_one_way(capsys: pytest.CaptureFixture[str]) -> None:
    cli = pytest.importorskip("importlinter.cli")
    status = cli.lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert status == 0, capsys.readouterr().out
