"""Damaged files and arguments, over every command, as many as asked: `python -m tests.hostile_files 2000`.

One line each, within 20 seconds and 1 GB of resident memory (torch, Lightning and all else included), and nothing
outside, nothing run, no traceback. A try is a fork of this process, so it has to be started alone, not in pytest.
"""

import argparse
import importlib
import json
import os
import pkgutil
import platform
import random
import shutil
import sys
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

import seqmix
from tests.damage import WORDS, damaged
from tests.forked import ROOT, Ended, forked
from tests.leaderboard.example_records import make_record

MEMORY, SECONDS = 10**9, 20  # bytes; seconds of a processor
TINY = ["--trainer.max_steps=1", "--trainer.val_check_interval=1", "--data.batch_size=2", "--data.eval_size=2"]
TINY += ["--data.eval_lengths=[4]", "--data.train_length=4"]
# The user's own, which may name any class: what lies in the folder may then be run.
OWN = ("fit", "sensitivity", "leaderboard run")

SHIFT = ["shift-k", "--mixer", "lru", "--states", "2", "--shifts", "4", "--starts", "1", "--steps", "9"]
COMMANDS = [
    ["fit", "--config", "config.yaml", *TINY, "--run_dir=out"],
    ["fit", "--config", "parity", "--ckpt_path", "run/checkpoints/last.ckpt", *TINY, "--run_dir=out"],
    ["test", "--ckpt_path", "run/checkpoints/last.ckpt", "--run_dir=out"],
    ["validate", "--ckpt_path", "run/checkpoints/last.ckpt", "--run_dir=out"],
    ["predict", "--ckpt_path", "run/checkpoints/last.ckpt", "--run_dir=out"],
    ["generate", "words/checkpoints/last.ckpt", "--prompt", "x", "--max-new-tokens", "3"],
    ["average", "run/checkpoints/last.ckpt", "run/checkpoints/older.ckpt", "--out", "average.ckpt"],
    ["certify", "run/checkpoints/last.ckpt"],
    ["certify", "run/checkpoints/last.ckpt", "--verify", "certificate.json"],
    ["inspect", "spectrum", "config.yaml", "--out", "s.svg"],
    ["inspect", "spectrum", "run", "--out", "s.svg"],
    ["leaderboard", "run", "board.yaml", "--dry-run", "--store", "new.jsonl"],
    ["leaderboard", "run", "grid.yaml", "--dry-run", "--store", "new.jsonl"],
    ["leaderboard", "report", "runs.jsonl", "--kind", "seeds"],
    ["leaderboard", "report", "mine", "--kind", "board", "--write", "README.md", "--section", "x"],
    ["leaderboard", "page", "runs.jsonl", "mine", "--out", "site"],
    ["leaderboard", "page", "mine/runs.jsonl", "--board", "board.yaml", "--out", "site", "--figures", "tmp"],
    ["leaderboard", "validate", "runs.jsonl"],
    ["leaderboard", "validate", "mine"],
    ["leaderboard", "rerun", "{id}", "--store", "mine/runs.jsonl"],
    ["leaderboard", "convert", "runs.jsonl", "new.parquet"],
    ["leaderboard", "convert", "runs.parquet", "back.jsonl"],
    ["sensitivity", "config.yaml", "--store", "new.jsonl", "--dry-run"],
    ["block-law", "figure", "law.jsonl", "--figure", "law.svg"],
    [*SHIFT, "--store", "shift.jsonl", "--figure", "shift.svg"],
    ["list", "mixers"],
    ["list", "parameters", "--config", "config.yaml"],
    ["bench", "report", "bench.json", "--docs", "docs.md"],
]


def run(command: list[str]) -> int:
    """A command, with no training beyond a step, whatever it says."""
    from lightning.pytorch import Trainer

    from seqmix.__main__ import main

    fit = Trainer.fit

    def short(self: Trainer, *args: Any, **kwargs: Any) -> None:
        self.fit_loop.epoch_loop.max_steps = min(max(self.max_steps, 0), 1)
        self.limit_val_batches = self.limit_test_batches = 1
        fit(self, *args, **kwargs)

    Trainer.fit = short  # type: ignore[method-assign]
    return main(command)


def preload() -> None:
    """Everything that commands import, so that no fork does."""
    for module in pkgutil.walk_packages(seqmix.__path__, "seqmix."):
        if not module.name.endswith("__main__"):
            with suppress(ImportError):  # of an extra that is not installed
                importlib.import_module(module.name)
    for name in ("torch._dynamo", "matplotlib.backends.backend_svg", "pyarrow.parquet", "lightning.pytorch.loggers"):
        importlib.import_module(name)
    platform.platform(), platform.processor()  # which ask `uname`, once


def good_files(folder: Path) -> dict[str, bytes]:
    """A file of every kind that a command reads, by name; they fit together."""
    (folder / "tmp").mkdir()
    mini = b"base: parity\ncurriculum: null\ntrainer: {max_steps: 1, val_check_interval: 1}\ndata: {train_length: 4, "
    mini += b"batch_size: 2, min_length: 3, eval_size: 2, eval_lengths: [4]}\n"
    board = b"name: mini\nbudget: {parameters: 3000}\ntasks: {parity: {config: mini, set: {data.eval_size: 3}}}\n"
    board += b"mixers: {mine: lstm, other: {name: bd-lru, block_size: 2}}\nrates: [0.001]\nseeds: {grid: [0]}\n"
    files = {f"{folder}{name}": text for folder in ("", "mine/") for name, text in (("mini", mini), ("board", board))}
    files = {f"{name}.yaml": text for name, text in files.items()}
    files["mine/meta.yaml"] = b"name: mine\nauthors: [A]\nurl: https://x.y\nlicence: MIT\ndescription: d\ntuning: t\n"
    files["mine/check.json"] = b'{"files": "x", "differences": [], "seal": "x"}'
    files["grid.yaml"] = b"config: parity\ngrid: {optimizer.lr: [0.1, 0.2]}\n"
    files["config.yaml"] = b"base: parity\nmixer: {name: bd-lru, block_size: 2}\n"
    files["bench.json"] = (ROOT / "benchmarks/results/xeon-2-cores/layers.json").read_bytes()
    files["law.jsonl"] = b"".join((ROOT / "docs/results/block-law.jsonl").read_bytes().splitlines(True)[:20])
    files["README.md"] = b"<!-- seqmix:x -->\n<!-- /seqmix:x -->\n"
    files["planted.py"] = b"class Layer: pass\n"
    _write(folder, files)
    made = [
        ["fit", "--config", "parity", *TINY, "--run_dir=run"],
        ["leaderboard", "run", "board.yaml", "--store", "mine/runs.jsonl"],
        ["certify", "run/checkpoints/last.ckpt", "--out", "certificate.json"],
        [*SHIFT, "--store", "shift.jsonl"],
        ["leaderboard", "convert", "mine/runs.jsonl", "runs.parquet"],
        [
            "fit",
            "--config",
            "lm",
            *TINY[:3],
            "--data.eval_lengths=[8]",
            "--data.train_length=8",
            "--model.d_model=16",
            "--run_dir=words",
        ],
    ]
    for command in made:
        ended = forked(lambda command=command: run(command), folder, seconds=300)  # type: ignore[misc]
        assert ended.status == (1 if "certify" in command else 0) and not ended.events, ended
    names = ["run/config.yaml", "certificate.json", "mine/runs.jsonl", "shift.jsonl", "runs.parquet"]
    older = torch.load(folder / "run/checkpoints/last.ckpt", weights_only=True)
    torch.save(older | {"global_step": 0}, folder / "run/checkpoints/older.ckpt")
    names += [str(path.relative_to(folder)) for path in folder.glob("*/checkpoints/*.ckpt")]
    files |= {name: (folder / name).read_bytes() for name in names}
    others = [make_record(seed=seed) for seed in (0, 1)]
    files["runs.jsonl"] = "".join(json.dumps(record) + "\n" for record in others).encode() + files["mine/runs.jsonl"]
    return files


def _write(folder: Path, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def attempt(seed: int, files: dict[str, bytes], root: Path) -> tuple[list[str], Ended, str]:
    """A command with one thing wrong: its words, what came of it, and what must not have been, if it was."""
    rng = random.Random(seed)
    command = [word.format(id=_id(files)) for word in rng.choice(COMMANDS)]
    folder = root / "tries" / str(seed)
    (folder / "tmp").mkdir(parents=True)
    read = {name for name in files if any(name == word or name.startswith(f"{word}/") for word in command)}
    _write(
        folder, {n: damaged(rng, n, data) if n in read and rng.random() < 0.7 else data for n, data in files.items()}
    )
    for _ in range(rng.choice((0, 0, 1, 2))):
        place = rng.randrange(1, len(command) + 1)
        command[place : place + rng.randrange(2)] = [rng.choice(WORDS)] * rng.randrange(2)
    if command[0] == "sensitivity" or command[:2] == ["leaderboard", "run"]:
        command = [*(word for word in command if word != "--dry-run"), "--dry-run"]  # a sweep may take what it takes
    before = _listing(root)
    ended = forked(lambda: run(command), folder, allowed=[root / "home"])
    wrong = [event for event in ended.events if not (event.startswith("exec ") and " ".join(command).startswith(OWN))]
    wrong += ["files outside"] * (_listing(root) != before)
    wrong += ended.said.splitlines()[-16:] * ("Traceback" in ended.said or "most recent call first" in ended.said)
    wrong += [f"status {ended.status}"] * (ended.status not in (0, 1, 2))
    wrong += [f"{ended.peak:,} B"] * (ended.peak > MEMORY) + [f"{ended.seconds:.0f} s"] * (ended.seconds > SECONDS)
    shutil.rmtree(folder)
    return command, ended, "; ".join(wrong)


def unread(files: dict[str, bytes], root: Path) -> list[str]:
    """Commands that do not end quietly where nobody reads what they say, as in `seqmix ... | head`."""
    wrong = []
    for number, command in enumerate([["--help"], ["fit", "--help"], *COMMANDS]):
        folder = root / "tries" / str(number)
        (folder / "tmp").mkdir(parents=True)
        _write(folder, files)
        command = [word.format(id=_id(files)) for word in command]
        ended = forked(lambda command=command: run(command), folder, allowed=[root / "home"], read=False)  # type: ignore[misc]
        if ended.status not in (0, 1, 141) or "Traceback" in ended.said or "Broken" in ended.said:
            wrong.append(f"{command}: {ended.status}, {ended.said[-2000:]}")
        shutil.rmtree(folder)
    return wrong


def _id(files: dict[str, bytes]) -> str:
    """That of a run that can be made again."""
    return str(json.loads(files["mine/runs.jsonl"].splitlines()[0])["id"])


def _listing(root: Path) -> list[tuple[str, bytes]]:
    """What lies beside the folders of the tries."""
    return sorted((path.name, path.read_bytes() if path.is_file() else b"") for path in root.glob("*[!h]*/*"))


def main(argv: Iterable[str] | None = None) -> int:
    """Tries `first` to `first + count`; 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("count", type=int, nargs="?", default=2000)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--unread", action="store_true", help="good files, and nobody who reads the output")
    parser.add_argument("--verbose", action="store_true", help="a line for each try")
    options = parser.parse_args(None if argv is None else list(argv))
    sys.dont_write_bytecode = True
    preload()
    with tempfile.TemporaryDirectory() as name:
        root = Path(name).resolve()
        for place in ("good", "outside", "home", "tries"):
            (root / place).mkdir()
        (root / "outside" / "victim").write_text("as it was")
        os.environ["XDG_CONFIG_HOME"] = str(root / "home")
        files = good_files(root / "good")
        shutil.rmtree(root / "good")
        if options.unread:
            print(wrong := "\n".join(unread(files, root)))
            return bool(wrong)
        found, peak, slowest, total = 0, (0, 0), (0.0, 0), 0.0
        for number in range(options.first, options.first + options.count):
            command, ended, wrong = attempt(number, files, root)
            peak, slowest = max(peak, (ended.peak, number)), max(slowest, (ended.seconds, number))
            total += ended.seconds
            if options.verbose:
                print(f"{number}: {ended.seconds:.1f} s, {ended.status}, {command}: {ended.said[-100:]!r}", flush=True)
            if wrong:
                found += 1
                print(f"{number}: {command}: {wrong}", flush=True)
            if (number + 1 - options.first) % 50 == 0:
                print(f"... {number + 1 - options.first} tries, {found} wrong, {total:.0f} s", flush=True)
    print(
        f"tries {options.first} to {options.first + options.count - 1}: {found} wrong; peak {peak[0] / 1e6:.0f} MB "
        f"(try {peak[1]}), slowest {slowest[0]:.1f} s (try {slowest[1]}), {total:.0f} s in all"
    )
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
