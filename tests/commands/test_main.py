"""The table of commands, and that every command ends alike: with one line and an exit status."""

import importlib
import os
import signal
import subprocess
import sys

import pytest

from seqmix.__main__ import main
from seqmix._signals import Interrupted
from seqmix.commands._messages import exits
from seqmix.commands._table import COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_told_what_it_cannot_do(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    module = importlib.import_module(f"seqmix.commands.{COMMANDS[name].module}")
    assert module.main.__wrapped__  # errors become an exit status there, whoever calls it
    try:
        status = main([name, "--nothing-of-the-kind", "x"])
    except SystemExit as end:  # argparse's own, with its usage
        status = int(end.code or 0)
    error = capsys.readouterr().err
    assert status == 2 and error.startswith("seqmix") and error.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            "generate",
            "seqmix generate: error: the following arguments are required: checkpoint; seqmix generate --help ",
        ),
        ("generate lm --promt x", "unrecognized arguments: --promt x; did you mean --prompt?"),
        (
            "leaderboard run a5 --store x --seed 1",
            "seqmix leaderboard run: error: unrecognized arguments: --seed 1; did ",
        ),
        ("bench kernelz", "; did you mean kernels"),
        (
            "certify a55",
            "a checkpoint, a run or the config of one, got 'a55', which does not exist; did you mean 'a5'?",
        ),
        ("generate parity", "got 'parity', of which runs/ has no run; seqmix fit --config parity makes one"),
        ("export runs/a5/1 there", "got 'runs/a5/1', which does not exist\n"),
    ],
)
def test_mistakes_name_the_nearest(words: str, line: str, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        assert main(words.split()) == 2
    except SystemExit as end:
        assert end.code == 2
    error = capsys.readouterr().err
    assert line in error and error.count("\n") == 1


def test_help_and_lists_import_no_torch() -> None:
    code = """import sys; from seqmix.__main__ import main
for words in WORDS:
    try:
        main([*words.split(), "--help"] if "list" not in words else words.split())
    except SystemExit:
        pass
    print(words, [name for name in ("torch", "lightning") if name in sys.modules], file=sys.stderr)"""
    words = ["fit", "generate", "export", "eval", "average", "certify", "train-tokenizer", "shift-k", "sensitivity"]
    words += ["block-law run", "leaderboard", "leaderboard run", "list models", "list models a5", "list mixers bd-lru"]
    words += ["inspect", "inspect mixing", "study", "study list", "study run"]
    result = subprocess.run([sys.executable, "-c", code.replace("WORDS", repr(words))], capture_output=True, text=True)
    assert result.stderr.splitlines() == [f"{each} []" for each in words]


def test_names_that_do_not_exist_import_no_torch(tmp_path) -> None:
    code = """import sys; from seqmix.__main__ import main
for words in WORDS:
    assert main(words.split()) == 2, words
    print(words, [name for name in ("torch", "lightning") if name in sys.modules])"""
    words = [
        "fit --config a55",
        "leaderboard run a55 --store x.jsonl",
        "sensitivity a55 --store x.jsonl",
        "study run a5",
    ]
    words += ["fit --config a5 --model.d_model 0", "block-law run --groups A55 --store x.jsonl", "certify a55"]
    command = [sys.executable, "-c", code.replace("WORDS", repr(words))]
    result = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert result.stdout.splitlines() == [f"{each} []" for each in words], result.stderr


@pytest.mark.parametrize(
    ("raised", "status", "said"),
    [
        (ValueError("--lr: expected more"), 2, "seqmix x: error: --lr: expected more\n"),
        (ImportError("needs y: pip install 'seqmix[y]'"), 2, "seqmix x: error: needs y: pip install 'seqmix[y]'\n"),
        (FileNotFoundError(2, "no such file", "a"), 2, "seqmix x: error: [Errno 2] no such file: 'a'\n"),
        (MemoryError("Unable to allocate 7 TiB"), 2, "seqmix x: error: not enough memory: Unable to allocate 7 TiB\n"),
        (
            RuntimeError("can't allocate memory:\n 9"),
            2,
            "seqmix x: error: not enough memory: can't allocate memory: 9\n",
        ),
        (KeyboardInterrupt(), 130, "seqmix x: interrupted by SIGINT\n"),
        (Interrupted("interrupted by SIGTERM"), 130, "seqmix x: interrupted by SIGTERM\n"),
    ],
)
def test_errors_become_a_line_and_a_status(raised: BaseException, status: int, said: str, capsys) -> None:
    @exits("seqmix x")
    def command(argv: list[str]) -> int:
        raise raised

    assert command([]) == status
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("lines", [1, 100_000])
@pytest.mark.parametrize("closed", [["stdout"], ["stdout", "stderr"]])
def test_a_reader_that_has_seen_enough_ends_a_command_quietly(lines, closed, monkeypatch, capsys) -> None:
    """As in `seqmix ... | head`: few lines wait in the buffer until the end, many do not."""
    for name in closed:
        read, write = os.pipe()
        os.close(read)
        monkeypatch.setattr(sys, name, os.fdopen(write, "w"))

    @exits()
    def command(argv: list[str]) -> int:
        for stream in (sys.stdout, sys.stderr):
            print("a line\n" * lines if stream is sys.stdout or len(closed) > 1 else "", file=stream)
        raise ValueError("a mistake")

    assert command([]) in (0, 2)
    for name in closed:
        getattr(sys, name).close()  # as the interpreter does when it ends
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize(
    "raised", [ImportError("cannot import name"), OSError("of a library"), TypeError("a bug"), RuntimeError("a bug")]
)
def test_what_is_no_mistake_of_the_user_keeps_its_traceback(raised: Exception) -> None:
    @exits()
    def command(argv: list[str]) -> int:
        raise raised

    with pytest.raises(type(raised), match=str(raised)):
        command([])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_command_that_is_called_alone(number: signal.Signals, capsys) -> None:
    @exits()
    def command(argv: list[str]) -> int:
        os.kill(os.getpid(), number)
        raise AssertionError("it went on")

    assert command([]) == 130
    assert capsys.readouterr().err == f"seqmix: interrupted by {number.name}\n"


def test_a_signal_while_the_first_modules_load_is_one_line() -> None:
    code = (
        "import sys\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'seqmix.commands._table': raise KeyboardInterrupt\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "import seqmix.__main__"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (130, "seqmix: interrupted by SIGINT\n")
