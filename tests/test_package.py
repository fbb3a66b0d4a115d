"""The package as a whole: what importing it costs and offers, and that it installs without the checkout."""

import doctest
import importlib
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import seqmix
from tests.pace import pace

ROOT = Path(__file__).parents[1]


def python(code: str, **kwargs) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, **kwargs).stdout


def test_import_loads_nothing_heavy() -> None:
    heavy = ["numba", "lightning", "datasets", "matplotlib"]
    assert python(f"import sys, seqmix; print([m for m in {heavy} if m in sys.modules])").strip() == "[]"
    # Triton may come with torch itself, but not through seqmix.
    code = "import sys, torch; before = 'triton' in sys.modules; import seqmix; print('triton' in sys.modules, before)"
    after, before = python(code).split()
    assert after == before


def test_import_takes_less_than_a_second_beyond_torch() -> None:
    code = "import torch, time; t = time.process_time(); import seqmix; seqmix.BDLRU; print(time.process_time() - t)"
    assert float(python(code)) < 1.0 * pace()


def test_public_names_exist_and_are_listed() -> None:
    for name in seqmix.__all__:
        assert getattr(seqmix, name) is not None
        assert name in dir(seqmix)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        seqmix.nothing  # noqa: B018


def test_version_is_the_same_everywhere() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["version"] == seqmix.__version__


def test_root_links_lead_into_the_package() -> None:
    for name in ("kernels", "tasks", "configs"):
        assert (ROOT / name).is_symlink() and (ROOT / name).resolve() == ROOT / "seqmix" / name


def modules() -> list[str]:
    found = [m.name for m in pkgutil.walk_packages(seqmix.__path__, "seqmix.")]
    return [m for m in found if not m.endswith((".__main__", ".triton"))]


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name), optionflags=doctest.ELLIPSIS)
    assert results.failed == 0
