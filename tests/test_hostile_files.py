"""Damaged files and arguments, over every command: one line, and nothing outside, nothing run, no traceback."""

import contextlib
import io
import json
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from seqmix.__main__ import main
from seqmix.leaderboard.records.store import RunStore
from tests.leaderboard.example_records import make_record

TINY = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.batch_size=2", "--data.eval_size=2"]
TINY += ["--data.eval_lengths=[4]", "--data.train_length=4"]
WORDS = ["", "-", "--", "x", "0", "-1", "1e999", "nan", "null", "[]", "{}", "[1", "a=b", "../x", "/dev/null", "é"]
WORDS += ["\x00", "--trust", "--config", "--ckpt_path", "--store", "--out", "--write", "--section", "--seeds", "-h"]
WORDS += ["no.such.module", "{class_path: subprocess.Popen}", "os:system", "1" * 400, "last", "best", "*" * 300]
_events: list[str] = []
_watched: list[Path | None] = [None]
_hooked: list[bool] = []


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    folder = _watched[0]
    if folder is None:
        return
    if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen") and "git" not in str(arguments[:2]):
        _events.append(f"{event} {arguments[:2]!r:.200}")
    if event == "open" and isinstance(arguments[0], str | bytes) and isinstance(arguments[2], int):
        name = os.path.realpath(os.fsdecode(arguments[0]))
        if (
            arguments[2] & (os.O_WRONLY | os.O_RDWR)
            and not name.startswith((str(folder), "/dev/", "/proc/"))
            and "__pycache__" not in name
        ):
            _events.append(f"open {name}")


@contextlib.contextmanager
def watched(folder: Path) -> Iterator[None]:
    """What is run, and what is written outside of `folder`, is kept in `_events`."""
    if not _hooked:
        sys.addaudithook(_hook)
        _hooked.append(True)
    _watched[0] = folder.resolve()
    try:
        yield
    finally:
        _watched[0] = None


def one_step(patch: pytest.MonkeyPatch) -> None:
    """No training beyond a step, whatever the arguments say."""
    from lightning.pytorch import Trainer

    fit = Trainer.fit

    def short(self: Trainer, *args: Any, **kwargs: Any) -> None:
        self.fit_loop.epoch_loop.max_steps = min(max(self.max_steps, 0), 1)
        self.limit_val_batches = self.limit_test_batches = 1
        fit(self, *args, **kwargs)

    patch.setattr(Trainer, "fit", short)


def good_files(folder: Path) -> dict[str, bytes]:
    """A file of every kind that a command reads, by name; they fit together."""
    run = folder / "made"
    assert main(["fit", "--config", "parity", *TINY, f"--run_dir={run}"]) in (0, 1)
    names = {"run/config.yaml": run / "config.yaml"}
    names |= {f"run/checkpoints/{path.name}": path for path in (run / "checkpoints").glob("*.ckpt")}
    files = {name: path.read_bytes() for name, path in names.items() if path.exists()}
    store = RunStore(folder / "records.jsonl")
    for seed in (0, 1):
        store.append(make_record(seed=seed))
    records = store.path.read_bytes()
    files |= {"runs.jsonl": records, "mine/runs.jsonl": records}
    files["board.yaml"] = files["mine/board.yaml"] = b"base: cpu\ntasks: [parity]\nmixers: {mine: lstm}\n"
    files["mine/meta.yaml"] = b"name: mine\nauthors: [A]\nurl: https://x.y\nlicence: MIT\ndescription: d\ntuning: t\n"
    files["mine/check.json"] = b'{"files": "x", "differences": [], "seal": "x"}'
    files["grid.yaml"] = b"config: parity\ngrid: {optimizer.lr: [0.1, 0.2]}\n"
    files["config.yaml"] = b"base: parity\nmixer: {name: lstm}\n"
    files["certificate.json"] = json.dumps({"format": 1, "task": "parity", "certified": True}).encode()
    files["bench.json"] = json.dumps({"schema": 1, "device": "cpu", "bench": "layers", "rows": []}).encode()
    files["README.md"] = b"<!-- seqmix:x -->\n<!-- /seqmix:x -->\n"
    return files


COMMANDS = [
    ["fit", "--config", "config.yaml", *TINY, "--run_dir=out"],
    ["fit", "--config", "parity", "--ckpt_path", "run/checkpoints/last.ckpt", *TINY, "--run_dir=out"],
    ["test", "--ckpt_path", "run/checkpoints/last.ckpt", "--run_dir=out"],
    ["validate", "--ckpt_path", "run/checkpoints/last.ckpt", "--run_dir=out"],
    ["predict", "--ckpt_path", "run/checkpoints/last.ckpt", "--run_dir=out"],
    ["generate", "run/checkpoints/last.ckpt", "--prompt", "x"],
    ["average", "run/checkpoints/last.ckpt", "run/checkpoints/last.ckpt", "--out", "average.ckpt"],
    ["certify", "run/checkpoints/last.ckpt"],
    ["certify", "run/checkpoints/last.ckpt", "--verify", "certificate.json"],
    ["inspect", "spectrum", "config.yaml"],
    ["inspect", "spectrum", "run"],
    ["leaderboard", "run", "board.yaml", "--dry-run", "--store", "new.jsonl"],
    ["leaderboard", "run", "grid.yaml", "--dry-run", "--store", "new.jsonl"],
    ["leaderboard", "report", "runs.jsonl", "--kind", "seeds"],
    ["leaderboard", "report", "mine", "--kind", "board", "--write", "README.md", "--section", "x"],
    ["leaderboard", "page", "runs.jsonl", "mine", "--out", "site"],
    ["leaderboard", "page", "runs.jsonl", "--board", "board.yaml", "--out", "site"],
    ["leaderboard", "validate", "runs.jsonl"],
    ["leaderboard", "validate", "mine"],
    ["leaderboard", "rerun", "0000", "--store", "runs.jsonl"],
    ["leaderboard", "convert", "runs.jsonl", "runs.parquet"],
    ["leaderboard", "convert", "runs.parquet", "back.jsonl"],
    ["sensitivity", "config.yaml", "--store", "new.jsonl", "--dry-run"],
    ["block-law", "figure", "runs.jsonl"],
    ["shift-k", "--store", "runs.jsonl", "--states", "1", "--shifts", "1"],
    ["list", "mixers"],
    ["list", "parameters", "config.yaml"],
    ["bench", "report", "bench.json", "--docs", "docs.md"],
]


def damaged(random: random.Random, data: bytes) -> bytes:
    """Cut, repeated, or with other signs in it."""
    for _ in range(random.choice((1, 1, 2, 5))):
        place = random.randrange(len(data) + 1)
        end = min(len(data), place + random.choice((1, 2, 8, 64, len(data))))
        kind = random.randrange(6)
        if kind == 0:
            data = data[:place]
        elif kind == 1:
            data = data[:place] + random.randbytes(min(end - place, 64)) + data[end:]
        elif kind == 2:
            data = data[:place] + data[end:]
        elif kind == 3:
            data = data[:place] + data[place:end] * 2 + data[end:]
        elif kind == 4:
            data = data[:place] + random.choice(WORDS).encode() + data[end if end - place < 9 else place :]
        else:
            old = random.choice((b"1", b"0", b"true", b"null", b"[", b"{", b": "))
            data = data.replace(old, random.choice(WORDS).encode(), 1)
    return data


def attempt(random: random.Random, files: dict[str, bytes], folder: Path) -> str | None:
    """One command with one thing wrong; what must not have been, if it was."""
    command = [*random.choice(COMMANDS)]
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        read = any(name == word or name.startswith(f"{word}/") for word in command)
        (folder / name).write_bytes(damaged(random, content) if read and random.random() < 0.7 else content)
    for _ in range(random.choice((0, 0, 1, 2))):
        place = random.randrange(1, len(command) + 1)
        command[place : place + random.randrange(2)] = [random.choice(WORDS)] * random.randrange(2)
    (folder / "tmp").mkdir(exist_ok=True)
    out, err, began = io.StringIO(), io.StringIO(), time.monotonic()
    del _events[:]
    wrong = None
    quiet = contextlib.ExitStack()
    quiet.enter_context(pytest.MonkeyPatch.context()).setattr(tempfile, "tempdir", str(folder / "tmp"))
    with (
        quiet,
        contextlib.chdir(folder),
        watched(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main(command)
        except SystemExit:
            pass
        except BaseException as error:  # the failure that is looked for
            wrong = f"{type(error).__name__}: {error}"
    wrong = wrong or ("Traceback" in err.getvalue() and err.getvalue()[-500:]) or "; ".join(_events) or None
    if time.monotonic() - began > 20:
        wrong = f"{time.monotonic() - began:.0f} s"
    return f"{command}: {wrong}" if wrong else None


@pytest.mark.slow
def test_two_thousand_damaged_files_and_command_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one_step(monkeypatch)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home"))
    files = good_files(tmp_path)
    found = []
    for number in range(2000):
        folder = tmp_path / f"t{number}"
        folder.mkdir()
        if wrong := attempt(random.Random(number), files, folder):
            found.append((number, wrong))
    assert found == []
    # KiB of the whole process, torch and Lightning included, which take half of it.
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 2**20 * 1.5
