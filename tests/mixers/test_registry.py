"""Mixers by name: registered ones, and classes of modules that the library has never heard of."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import seqmix
from seqmix import create_mixer, mixers
from seqmix._stubs import stub
from seqmix.mixers.registry import get_mixer, list_mixers

MODULE = '''
from seqmix import BDLRU
from seqmix.mixers import TokenMixer

class Pairs(BDLRU):
    """Blocks of two."""

    def __init__(self, d_model, *, scale=1.0, device=None, dtype=None):
        super().__init__(d_model, block_size=2, device=device, dtype=dtype)
        self.scale = scale
'''


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "pairs_of_mine.py").write_text(MODULE)
    (tmp_path / "needs_more.py").write_text("import no_such_package\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield
    sys.modules.pop("pairs_of_mine", None)


@pytest.mark.usefixtures("module")
def test_a_class_of_any_module_is_a_mixer() -> None:
    before = list_mixers()
    mixer = create_mixer("pairs_of_mine:Pairs", 8, scale=2.0)
    assert type(mixer).__name__ == "Pairs" and mixer.block_size == 2 and mixer.scale == 2.0
    assert get_mixer("pairs_of_mine:Pairs").description == "Blocks of two."
    assert list_mixers() == before


@pytest.mark.usefixtures("module")
def test_mistakes_are_named() -> None:
    with pytest.raises(
        ValueError, match="unknown argument of mixer 'pairs_of_mine:Pairs': 'scle'; did you mean 'scale'"
    ):
        create_mixer("pairs_of_mine:Pairs", 8, scle=1.0)
    with pytest.raises(ValueError, match="unknown class of pairs_of_mine 'Pair'; did you mean 'Pairs'"):
        get_mixer("pairs_of_mine:Pair")
    with pytest.raises(ValueError, match="mixer 'pears:Pairs': there is no module 'pears'"):
        get_mixer("pears:Pairs")
    with pytest.raises(ModuleNotFoundError, match="no_such_package"):
        get_mixer("needs_more:Pairs")
    with pytest.raises(ValueError, match="unknown mixer 'bd-lrv'; did you mean 'bd-lru'"):
        get_mixer("bd-lrv")


def test_every_mixer_of_ours_is_exported() -> None:
    folder = Path(mixers.__path__[0])
    written = {path.stem for path in folder.glob("[a-z]*.py") if "\n@register_mixer(" in path.read_text()}
    ours = [get_mixer(name).load() for name in list_mixers()]
    classes = {each.__name__: each for each in ours if each.__module__.startswith("seqmix.mixers.")}
    assert {each.__module__.rpartition(".")[2] for each in classes.values()} == written
    for name, each in classes.items():
        assert name in mixers.__all__ and name in seqmix.__all__ and getattr(seqmix, name) is each
        assert f"import {name} as {name}\n" in stub("seqmix") and f"import {name} as {name}\n" in stub("seqmix.mixers")


def test_a_name_finds_its_module_alone() -> None:
    code = """import sys; from seqmix import LRU, list_mixers; assert "bd-lru" in list_mixers()
print([name for name in sys.modules if name in ("seqmix.mixers.bd_lru", "seqmix.mixers.fp_rnn")])"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"
