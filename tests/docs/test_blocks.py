"""Every code block of the README and of docs/ is run, or held against the parsers that would read it.

Python runs, one page in one namespace and one folder; a block with a title is a file of that name. Commands in bash are
parsed by the real parsers, and run where the page asks for it. YAML is a config that loads.
"""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from seqmix.__main__ import main
from seqmix.leaderboard.boards.board import load_board
from seqmix.leaderboard.boards.grid import grid_runs
from seqmix.mixers import registry as mixers
from seqmix.optim import registry as optimizers
from seqmix.tasks import registry as tasks
from seqmix.training.config.files import expand, load_config, parse_value
from tests.docs.blocks import LANGUAGES, PAGES, ROOT, Block, blocks
from tests.docs.commands import check, check_seqmix, commands

BLOCKS = [block for page in PAGES for block in blocks(page)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh folder with docs/ and some text, from which pages may import; what they register is forgotten."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    for register in (mixers._MIXERS, tasks._TASKS):
        monkeypatch.setattr(register, "_added", dict(register))
    monkeypatch.setattr(optimizers, "_ENTRIES", dict(optimizers._ENTRIES))
    (tmp_path / "docs").symlink_to(ROOT / "docs")
    (tmp_path / "texts" / "more").mkdir(parents=True)
    (tmp_path / "texts" / "more" / "a.txt").write_text("Some text.")
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_run(page: Path, folder: Path) -> None:
    torch.manual_seed(0)
    names: dict[str, object] = {"__name__": page.stem}
    for block in blocks(page):
        if block.reason is None:
            try:
                run(block, names, folder)
            except BaseException as error:
                error.add_note(f"in the block of {block}")
                raise


def run(block: Block, names: dict[str, object], folder: Path) -> None:
    if block.title:
        (folder / block.title).write_text(block.code)
    if block.language == "python" and block.title:
        names |= vars(importlib.import_module(block.title.removesuffix(".py")))
    elif block.language == "python":
        exec(compile("\n" * block.line + block.code, str(block.page), "exec"), names)
    elif block.language == "yaml":
        check_yaml(block, folder)
    elif block.language == "bash":
        for argv in commands(block.code, folder):
            if block.run and argv[0] == "seqmix":
                options = block.options.split() if argv[1] == "fit" else []
                assert main([*argv[1:], *options]) == 0, " ".join(argv)
            else:
                check(argv, folder)


def check_yaml(block: Block, folder: Path) -> None:
    """A board, a grid, a config or a part of one; commands find it by the name in its title or first comment."""
    content = parse_value(block.code)
    board = bool(content.keys() & {"budget", "mixers"})
    said = re.match(r"# ([\w-]+\.yaml)\b", block.code)
    name = block.title or (said[1] if said else f"{content['name'] if board else 'block'}.yaml")
    path = folder / name
    path.write_text(block.code)
    if board:
        load_board(path, trust=None)
    elif "grid" in content:
        assert grid_runs(path)
    elif "data" in expand(load_config(str(path))):
        check_seqmix(["fit", "--config", str(path)])


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.reason is not None], ids=str)
def test_blocks_that_cannot_run(block: Block) -> None:
    assert block.reason, f"{block}: skipped without a reason"
    pytest.skip(block.reason)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_blocks_say_what_they_are(page: Path) -> None:
    for block in blocks(page):
        assert block.language in LANGUAGES, f"{block}: the language must be one of {LANGUAGES}, got {block.language!r}"
        if block.language == "text":
            assert not re.search(r"^ *(seqmix|make|pytest|pip) ", block.code, flags=re.MULTILINE), f"{block}: a command"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_that_wrote_a_table_are_commands(page: Path, folder: Path) -> None:
    for code in re.findall(r"^Written by `(.*?)`\.", page.read_text(), flags=re.MULTILINE):
        for argv in commands(code, folder):
            check(argv, folder, wrote=True)
