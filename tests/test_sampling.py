"""What a sample of many combinations holds."""

import subprocess
import sys
from itertools import combinations, product
from pathlib import Path

import pytest

from tests.forked import ROOT
from tests.sampling import chosen

COMBINATIONS = """
import pytest

@pytest.mark.sample{count}
@pytest.mark.parametrize("second", [(), ("b", "c"), {{"d": 1}}], ids=str)
@pytest.mark.parametrize("first, with_it", [(1, {{}}), (2, {{}}), (3, {{}}), (4, {{"e": 0}})], ids=str)
def test_of_many(first, with_it, second):
    pass
"""


@pytest.mark.parametrize("sizes", [(5, 3, 2), (4, 4), (2, 3, 3, 2), (7,)])
def test_every_value_then_every_pair_is_met(sizes: tuple[int, ...]) -> None:
    names = "abcd"[: len(sizes)]
    cases = [dict(zip(names, numbers, strict=True)) for numbers in product(*map(range, sizes))]
    few = [cases[n] for n in chosen(cases, max(sizes))]
    assert len(few) == max(sizes)
    for name, size in zip(names, sizes, strict=True):
        assert {case[name] for case in few} == set(range(size))
    met: set[object] = set()
    while len(met) < sum(a * b for a, b in combinations(sizes, 2)):
        few = [cases[n] for n in chosen(cases, len(few) + 1)]
        met = {pair for case in few for pair in combinations(sorted(case.items()), 2)}
    assert len(few) <= len(cases)
    assert chosen(cases, len(cases) + 5) == set(range(len(cases)))


def test_a_sample_that_is_larger_holds_the_smaller() -> None:
    cases = [{"a": a, "b": b} for a in range(4) for b in range(5)]
    for count in range(1, 20):
        assert chosen(cases, count) < chosen(cases, count + 1)


@pytest.mark.parametrize("count, kept", [("", 4), ("(7)", 7), ("(12)", 12)])
def test_as_pytest_collects_them(count: str, kept: int, tmp_path: Path) -> None:
    """Stacked parameters are numbered by their values, in every version of pytest."""
    (tmp_path / "conftest.py").write_text(
        f"import sys\nsys.path.insert(0, {str(ROOT)!r})\n"
        "from tests.sampling import sample\n"
        "def pytest_collection_modifyitems(items):\n    sample(items)\n"
    )
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n    sample\n")
    (tmp_path / "test_many.py").write_text(COMBINATIONS.format(count=count))
    command = [sys.executable, "-m", "pytest", "-q", "--collect-only", "-m", "not slow", "-p", "no:cacheprovider"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert ended.stdout.count("test_of_many[") == kept, ended.stdout + ended.stderr
