"""The matrix of processors: what its rows cover, and that a red test makes it red."""

import itertools
import subprocess

import pytest

from tests import matrix


def test_any_two_settings_meet_in_a_row():
    for columns in itertools.combinations(range(3), 2):
        values = [sorted({row[column] for row in matrix.ROWS}, key=str) for column in columns]
        assert {tuple(row[column] for column in columns) for row in matrix.ROWS} == set(itertools.product(*values))
    assert {row.vectors for row in matrix.ROWS} == set(matrix.WIDTHS)
    assert {row.numba for row in matrix.ROWS} == set(matrix.NUMBA) and {row.threads for row in matrix.ROWS} == {1, 2}


@pytest.mark.parametrize("red", [True, False])
def test_a_red_test_is_counted_and_named(red, monkeypatch, capsys, tmp_path):
    seen = []
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))

    def pytest_run(command, env, stdout, **_):
        seen.append((command, env))
        text = "FAILED tests/a.py::b - x\n1 failed, 7 passed, 2 skipped in 3.1s\n" if red else "8 passed in 3.1s\n"
        stdout.write(text)
        return subprocess.CompletedProcess(command, int(red))

    monkeypatch.setattr(subprocess, "run", pytest_run)
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", "avx512")
    monkeypatch.setattr("sys.argv", ["matrix", "tests/a.py", "-k", "b", "--row", "1-native", "--slow"])
    assert matrix.main() == red
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:6] for line in printed[1:3]] == [
        [vectors, "1", "native", *(["7", "1", "2"] if red else ["8", "0", "0"])] for vectors in ("native", "default")
    ]
    assert [line for line in printed[3:] if line] == ["native-1-native: FAILED tests/a.py::b - x",
                                                      "default-1-native: FAILED tests/a.py::b - x"] * red  # fmt: skip
    (command, native), (_, default) = seen
    assert "ATEN_CPU_CAPABILITY" not in native and default["ATEN_CPU_CAPABILITY"] == "default"
    assert command[command.index("-m", 3) + 1] == "slow and not gpu" and "tests/a.py" in command
