"""Commands of the documentation, held against the real parsers and files without being run."""

import argparse
import re
import subprocess
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import yaml
from lightning.pytorch.cli import LightningCLI

from seqmix.__main__ import main
from seqmix.commands import _inspect_figures as inspect_cli
from seqmix.commands._targets import Options, Target, find_target
from seqmix.leaderboard.boards.board import find_board
from seqmix.leaderboard.boards.grid import find_grid
from seqmix.tasks.tokenization import train_bpe
from seqmix.training.config import files as config_files
from seqmix.training.config import runs
from tests.docs.blocks import PROGRAMS, ROOT

_STUB = (
    '#!/bin/bash\nfor word in "${0##*/}" "$@"; do printf "%s\\0" "$word"; done >> "$LOG"; printf "\\n\\0" >> "$LOG"\n'
)
_EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


class Understood(BaseException):
    """Raised where a command has been parsed and its work would begin."""


def commands(code: str, folder: Path) -> list[list[str]]:
    """What a bash block calls, by bash itself: with quotes, loops and variables done, every program a stub."""
    bin_folder, log = folder / ".stubs", folder / ".stubs.log"
    bin_folder.mkdir(exist_ok=True)
    for name in PROGRAMS:
        (bin_folder / name).write_text(_STUB)
        (bin_folder / name).chmod(0o755)
    log.write_text("")
    result = subprocess.run(
        ["/bin/bash", "-euo", "pipefail", "-c", f"enable -n cd\n{code}"],
        cwd=folder,
        env={"PATH": str(bin_folder), "LOG": str(log)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, f"bash: {result.stderr}"
    return [line.split("\0")[:-1] for line in log.read_text().split("\n\0")[:-1]]


def check(argv: list[str], folder: Path, *, wrote: bool = False) -> None:
    """`AssertionError` unless the command could start as it stands, with what it reads there if it `wrote` a table."""
    program, *words = argv
    if program == "seqmix":
        check_seqmix(words, wrote=wrote)
    elif program == "make":
        targets = [word for word in words if "=" not in word]
        assert set(targets) <= _TARGETS, f"make {' '.join(targets)}: the Makefile has {sorted(_TARGETS)}"
    elif program == "pip":
        extras = [extra for word in words for group in re.findall(r"\[([\w,-]+)\]", word) for extra in group.split(",")]
        assert set(extras) <= _EXTRAS, f"pip {' '.join(words)}: there are the extras {sorted(_EXTRAS)}"
    elif program == "pytest":
        paths = [word for word in words if word.startswith("tests/") or word.endswith(".py")]
        missing = [path for path in paths if not (ROOT / path).exists() and not (folder / path).exists()]
        assert not missing, f"pytest {' '.join(words)}: {missing} do not exist"


def check_seqmix(words: list[str], *, wrote: bool = False) -> None:
    """`seqmix WORDS`, up to where its work would begin; lists and help texts are printed."""
    with _nothing_runs(wrote):
        try:
            status = main(words)
        except Understood:
            return
        except SystemExit as leave:
            status = int(leave.code or 0)
    assert status == 0, f"seqmix {' '.join(words)}: exit status {status}"
    helps = {"--help", "-h", "--version"} & set(words) or any(word.endswith(".help") for word in words)
    assert words[:1] == ["list"] or helps, f"seqmix {' '.join(words)} did run"


@contextmanager
def _nothing_runs(wrote: bool) -> Iterator[None]:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *args: Any, **kwargs: Any) -> Any:
        parsed = parse(self, *args, **kwargs)
        if self.prog.startswith("seqmix"):
            _check_names(parsed)
            if wrote:
                _check_table(parsed)
            raise Understood
        return parsed

    with (
        mock.patch.object(argparse.ArgumentParser, "parse_args", parse_only),
        mock.patch.object(LightningCLI, "instantiate_classes", side_effect=Understood),
        mock.patch.object(runs, "find_checkpoint", _pretended_checkpoint),
        mock.patch.object(inspect_cli, "find_target", _pretended_target),
        mock.patch.dict(inspect_cli._DRAWN, dict.fromkeys(inspect_cli._DRAWN, _understood)),
    ):
        yield


def _check_names(arguments: argparse.Namespace) -> None:
    """Configs, boards and grids that a sweep names; a tokenizer to be learned is made, for commands after it."""
    for config in getattr(arguments, "configs", None) or ():
        if find_board(config) is None and find_grid(config) is None:
            config_files.load_config(config)
    if getattr(arguments, "vocab_size", None) and not arguments.output.exists():
        arguments.output.write_text(train_bpe(["a later command of the page names this file"], 257))


def _check_table(arguments: argparse.Namespace) -> None:
    """Records that a table is made of, and the place it is written to."""
    for file in getattr(arguments, "files", None) or ():
        assert (ROOT / file).is_file(), f"{file} does not exist"
    assert f"<!-- seqmix:{arguments.section} -->" in (ROOT / arguments.write).read_text(), f"no {arguments.section}"


def _pretended_target(what: str, options: Options) -> Target:
    """As `find_target`, but a run that the page's commands make is there, with a mixer in place of its model."""
    if re.fullmatch(r"runs/[\w-]+/\d+", what):
        assert what.split("/")[1] in config_files.list_configs(), f"{what}: no command makes it"
        return find_target("bd-lru", options)
    return find_target(what, options)


def _understood(targets: list[Target], arguments: argparse.Namespace) -> Any:
    raise Understood


def _pretended_checkpoint(which: str, name: str | None, run_dir: str | None, **kwargs: Any) -> Path:
    """A checkpoint as `which` names it, made up where there is none; its run has the config that its folder names."""
    path = Path(which)
    if which in ("last", "best"):
        path = Path(run_dir or f"runs/{name or 'parity'}/1", "checkpoints", f"{which}.ckpt")
    config = path.parent.parent / "config.yaml"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    if not config.exists():
        base = next((part for part in path.parts if part in config_files.list_configs()), "parity")
        config.write_text(yaml.safe_dump({"base": base}))
    return path
