"""`seqmix completion`: bash completes by its script; zsh and fish read theirs where they are installed."""

import shutil
import subprocess

import pytest

from seqmix.__main__ import main
from seqmix.commands import completion
from seqmix.commands._table import COMMANDS


@pytest.fixture
def script(capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", "bash"]) == 0
    return capsys.readouterr().out


def completed(script: str, line: str) -> set[str]:
    words = line.split(" ")
    code = f"""{script}
COMP_WORDS=({" ".join(f"'{word}'" for word in words)}) COMP_CWORD={len(words) - 1}
_seqmix
printf '%s\\n' "${{COMPREPLY[@]}}" """
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True)
    assert result.returncode == 0 and not result.stderr, result.stderr
    return set(result.stdout.split())


@pytest.mark.parametrize(
    ("line", "names"),
    [
        ("seqmix cert", {"certify"}),
        ("seqmix fit --conf", {"--config"}),
        ("seqmix fit --config s3-fp", {"s3-fp-rnn"}),
        ("seqmix fit --config a5 --mixer bd", {"bd-lru"}),
        ("seqmix fit --data mq", {"mqar"}),
        ("seqmix fit --config a5 --optimizer muo", {"muon", "muon-original", "muown"}),
        ("seqmix list mix", {"mixers"}),
        ("seqmix list tasks sele", {"selective-copy"}),
        ("seqmix leaderboard re", {"rerun", "report"}),
        ("seqmix leaderboard run cp", {"cpu"}),
        ("seqmix inspect spec", {"spectrum"}),
        ("seqmix inspect spectrum a5-ls", {"a5-lstm"}),
        ("seqmix certify a5-ls", {"a5-lstm"}),
        ("seqmix completion f", {"fish"}),
        ("seqmix bench nothing-of-the-kind", set()),
    ],
)
def test_bash_completes(script: str, line: str, names: set[str]) -> None:
    found = completed(script, line)
    assert names <= found and all(name.startswith(line.split(" ")[-1]) for name in found) and bool(names) == bool(found)


@pytest.mark.parametrize(("shell", "check"), [("zsh", ["zsh", "-n"]), ("fish", ["fish", "--no-execute"])])
def test_other_shells_read_theirs(shell: str, check: list[str], tmp_path, capsys) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert {*COMMANDS, "bd-lru", "word-problem"} <= set(text.replace("'", " ").split())
    if shutil.which(shell):
        (tmp_path / "script").write_text(text)
        subprocess.run([*check, str(tmp_path / "script")], check=True, capture_output=True)


def test_subcommands_are_those_of_the_parsers(capsys: pytest.CaptureFixture[str]) -> None:
    for command in ("leaderboard", "bench", "block-law", "study"):
        with pytest.raises(SystemExit):
            main([command, "no-such-thing"])
        said = (
            capsys.readouterr()
            .err.partition(";")[0]
            .replace("'", "")
            .replace("(", "")
            .replace(")", "")
            .replace(",", "")
            .split()
        )
        assert set(completion.SUBCOMMANDS[command]) == set(said[said.index("from") + 1 :])


def test_mistakes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bsh"]) == 2
    assert "unknown shell 'bsh'; did you mean 'bash'" in capsys.readouterr().err
    assert main(["completion"]) == 0 and "eval" in capsys.readouterr().out
