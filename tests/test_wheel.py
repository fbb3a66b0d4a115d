"""The built wheel, installed away from the checkout: typed, without tests or links, with its configs found by name."""

import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

LOOK = """
import json, seqmix
from seqmix.training.config.files import find_config, list_configs, load_config
found = {"home": seqmix.__file__, "path": str(find_config("a5")), "config": load_config("a5")}
print(json.dumps(found | {"configs": sorted(list_configs()), "mixers": seqmix.list_mixers()}))
"""


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy: setuptools would leave `build` in the checkout, and pack what an earlier one left there."""
    copy, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    shutil.copytree(ROOT / "seqmix", copy / "seqmix", ignore=shutil.ignore_patterns("__pycache__", "*.pyi"))
    for name in ("kernels", "tasks", "configs"):
        (copy / name).symlink_to(Path("seqmix") / name)
    shutil.copytree(ROOT / "tests" / "tasks", copy / "tests" / "tasks")
    # Without isolation: the environment's setuptools, and no network.
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(built), str(copy))
    (path,) = built.glob("seqmix-*.whl")
    return path


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"seqmix"}, "neither tests nor the root's links"
    sources = [
        path
        for path in (ROOT / "seqmix").rglob("*")
        if path.suffix in (".py", ".yaml", ".typed", ".html", ".css", ".js", ".svg")
    ]
    assert {path.relative_to(ROOT).as_posix() for path in sources} | {"seqmix/py.typed"} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    stub = zipfile.ZipFile(wheel).read("seqmix/__init__.pyi").decode()
    assert "from seqmix.mixers.bd_lru import BDLRU as BDLRU\n" in stub, "what registers export, for type checkers"


def test_installed_elsewhere_it_finds_its_configs(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "target", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip("install", "--no-deps", "--no-index", "--target", str(target), str(wheel))
    # PYTHONPATH comes before the checkout that an editable install put on the path.
    result = subprocess.run(
        [sys.executable, "-c", LOOK],
        cwd=elsewhere,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    for path in (found["home"], found["path"]):
        assert Path(path).is_relative_to(target), "not the checkout's"
    assert found["config"]["mixer"]["name"] == "bd-lru" and found["config"]["data"]["group"] == "A5"
    assert found["configs"] == sorted(path.stem for path in (ROOT / "seqmix" / "configs").glob("*.yaml"))
    assert {"bd-lru", "mamba", "attention"} <= set(found["mixers"])
