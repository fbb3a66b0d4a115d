"""The figure of the rooms is that of today's imports."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.docs.blocks import ROOT


@pytest.fixture
def rooms() -> ModuleType:
    pytest.importorskip("grimp")
    spec = importlib.util.spec_from_file_location("rooms", ROOT / "docs" / "_site" / "rooms.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_figure_is_that_of_the_imports(rooms: ModuleType) -> None:
    assert rooms.FIGURE.read_text() == rooms.figure(), "python docs/_site/rooms.py draws it again"


def test_arrows_that_follow_from_others_are_left_out(rooms: ModuleType) -> None:
    every = rooms.arrows(["mixers", "models", "kernels"])
    assert every == {("models", "mixers"), ("mixers", "kernels")}


def test_every_room_is_explained(rooms: ModuleType) -> None:
    page = Path(ROOT / "docs" / "architecture.md").read_text()
    names = [room for row in rooms.layers() for room in row if room != "__main__"]
    assert [name for name in names if f"`{name}/`" not in page] == []
