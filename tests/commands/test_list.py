"""`seqmix list`: names with a line each, a name with all about it, and what does not match."""

import inspect
import os
import subprocess
import sys

import pytest

from seqmix.__main__ import main
from seqmix.commands import list as command
from seqmix.commands._sheets import asked_help
from seqmix.mixers.registry import list_mixers
from seqmix.tasks.registry import get_task, list_tasks
from tests.docs.commands import check_seqmix


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["list", *words]) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "lines"),
    {
        "mixers bd-lru": [
            "  block_size = 4 ",
            "made by   seqmix.mixers.bd_lru.BDLRU",
            "https://arxiv.org/abs/2602.12021",
        ],
        "tasks mqar": ["  n_pairs = 4 ", "  train_length = 64 ", "  seqmix fit --config mqar\n"],
        "tasks language-modeling": ["  seqmix fit --config lm\n"],
        "optimizers muown": ["  momentum = 0.95 ", "  adamw = {} ", "--optimizer muown --optimizer.lr 1e-3"],
        "optimizers lookahead": ["  base = 'adamw' "],
        "optimizers lmo-spectral": ["  norm = 'spectral' "],
        "optimizers adam-atan2": ["cannot be made by name"],
        "configs a5": ["configs/a5.yaml:", "  group: A5\n", "  seqmix fit --config a5\n"],
        "boards cpu": ["budget:", "seqmix leaderboard run cpu --store runs.jsonl"],
        "schedules wsd": ["  cooldown = 0.2 "],
        "callbacks curriculum": ["  threshold = 0.9 ", "--curriculum.start 2"],
    }.items(),
)
def test_a_name_is_explained(words: str, lines: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    text = listed(capsys, *words.split())
    assert all(line in text for line in lines) and max(map(len, text.splitlines())) <= 140


def test_every_name_is_explained_and_every_argument_has_a_meaning(capsys: pytest.CaptureFixture[str]) -> None:
    for kind in ("mixers", "tasks", "schedules", "callbacks"):
        for name in command.NAMES[kind].names():
            text = listed(capsys, kind, name)
            arguments = text.partition("arguments")[2].partition("\nexample:\n")
            bare = [line for line in arguments[0].splitlines()[1:] if len(line) > 2 and line.startswith("  ")]
            assert bare and arguments[2].startswith("  seqmix fit "), f"{kind} {name}"
            assert not any(line.rstrip().endswith(("| None", " int", " float", " bool", " str")) for line in bare), text


def test_tasks_take_what_their_sheet_says(capsys: pytest.CaptureFixture[str]) -> None:
    for name in list_tasks():
        text = listed(capsys, "tasks", name)
        for argument in inspect.signature(get_task(name).load()).parameters:
            assert f"\n  {argument} = " in text or f"\n  {argument}   (must be given)" in text, f"{name}: {argument}"


def test_the_examples_are_commands(capsys: pytest.CaptureFixture[str]) -> None:
    for kind, name in {"mixers": "gla", "tasks": "parity", "optimizers": "adamw", "schedules": "wsd"}.items():
        for line in listed(capsys, kind, name).partition("example:\n")[2].splitlines():
            check_seqmix(line.split()[1:])


@pytest.mark.parametrize(
    ("words", "status", "line"),
    [
        ("mixers mambo", 1, f"seqmix: none of the {len(list_mixers())} mixers matches 'mambo'; did you mean mamba"),
        ("configs zz*", 1, "seqmix: none of the"),
        ("mixers a b", 2, "seqmix: error: seqmix list mixers: expected one name or pattern (in quotes), got a b"),
        ("mixer", 2, "seqmix: error: unknown list 'mixer'; did you mean 'mixers'"),
    ],
)
def test_what_is_not_there(words: str, status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list", *words.split()]) == status
    captured = capsys.readouterr()
    assert captured.err.startswith(line) and captured.err.count("\n") == 1 and not captured.out


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ("--config a5 --mixer.help", "bd-lru: Selective block-diagonal"),
        ("--config=a5 --mixer.help", "bd-lru: Selective block-diagonal"),
        ("--config a5 --mixer lstm --model.mixer.help", "lstm: "),
        ("--mixer.help mamba", "mamba: "),
        ("--mixer.help", "--mixer NAME takes one of `seqmix list mixers`"),
        ("--config parity --data.help", "parity: "),
        ("--config a5 --optimizer.help", "adamw: "),
        ("--config a5 --schedule.help", "constant: "),
        ("--curriculum.help", "curriculum: Start with short sequences"),
    ],
)
def test_options_ask_for_help(words: str, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fit", *words.split()]) == 0
    assert capsys.readouterr().out.startswith(line)
    assert asked_help(["--config", "a5", "--trainer.max_steps", "3"]) is None


def test_a_reader_that_leaves_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    result = subprocess.run(
        [sys.executable, "-m", "seqmix", "list", "configs"], stdout=write, stderr=subprocess.PIPE, text=True
    )
    os.close(write)
    assert (result.returncode, result.stderr) == (0, "")
