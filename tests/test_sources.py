"""What modules declare is read from their text."""

from pathlib import Path

import pytest

from seqmix._registry import Entry, Registry
from seqmix._sources import declared, file_of

MODULE = '''
"""Text that speaks of @register_thing("other") declares nothing."""
from somewhere.missing import register_thing

@register_thing(
    "one", description="The first."
)
@dataclass
class One: ...

@register_thing("two", description="The second.", source="2000.00001")
def two(): ...
'''


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "things_of_mine"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise RuntimeError('imported')")
    (folder / "module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    declared.cache_clear()
    return folder


def test_nothing_is_imported_to_find_what_is_declared(package: Path) -> None:
    register = Registry("thing", "things_of_mine", Entry)
    assert register.matching("t*") == ["two"] and list(register) == ["one", "two"]
    two = Entry("two", "things_of_mine.module:two", "The second.", "2000.00001")
    assert register["two"] == two and two.class_path == "things_of_mine.module.two"
    assert register.by_class()["things_of_mine.module.One"] == "one"
    with pytest.raises(ValueError, match="unknown thing 'tow'; did you mean 'two'"):
        register["tow"]


def test_a_name_is_taken_once(package: Path) -> None:
    register = Registry("thing", "things_of_mine", Entry)
    register.add(Entry("two", "things_of_mine.module:two", "Again, as its module is imported."))
    with pytest.raises(ValueError, match=r"register_thing: the name 'two' is taken by things_of_mine\.module\.two"):
        register.add(Entry("two", "elsewhere:two", ""))
    (package / "later.py").write_text('@register_thing("one", description="")\nclass Other: ...\n')
    declared.cache_clear()
    with pytest.raises(ValueError, match=r"module and things_of_mine\.later both declare 'one'"):
        list(Registry("thing", "things_of_mine", Entry))


def test_sources_are_found_by_name() -> None:
    assert file_of("seqmix.kernels").name == "__init__.py" and file_of("seqmix._sources").name == "_sources.py"
    for missing in ("seqmix.nothing", "no_such_package.module"):
        with pytest.raises(ValueError, match=f"no source of a module '{missing}'"):
            file_of(missing)
