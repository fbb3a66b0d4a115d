"""Tests of many combinations: a few of them by default, the rest among the slow ones.

    @pytest.mark.sample  # or sample(6)
    @pytest.mark.parametrize("hidden", FORMS)
    @pytest.mark.parametrize("mixing", MIXINGS)

As many are chosen as it takes to meet every value of every parameter; of a given number, the first meet every value and
the others as many pairs of values as they can. A test that is named alone, `file::test[case]`, runs.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from itertools import combinations

import pytest

__all__ = ["chosen", "sample"]


def sample(items: Sequence[pytest.Item]) -> None:
    """Mark as slow what the `sample` marks of these tests leave out."""
    groups: dict[str, list[pytest.Function]] = defaultdict(list)
    for item in items:
        marked = isinstance(item, pytest.Function) and item.get_closest_marker("sample")
        if marked and not item.get_closest_marker("slow"):
            groups[item.nodeid.partition("[")[0]].append(item)
    for group in groups.values():
        kept = chosen(numbered([item.callspec.params for item in group]), *group[0].get_closest_marker("sample").args)
        for number, item in enumerate(group):
            if number not in kept:
                item.add_marker(pytest.mark.slow)


def numbered(cases: Sequence[Mapping[str, object]]) -> list[dict[str, int]]:
    """Of every parameter, the number of its value among those that it takes: pytest's own may be that of the case."""
    values: dict[str, dict[str, int]] = defaultdict(dict)
    return [
        {name: values[name].setdefault(repr(value), len(values[name])) for name, value in case.items()}
        for case in cases
    ]


def chosen(cases: Sequence[Mapping[str, int]], count: int | None = None) -> set[int]:
    """Which `count` of these cases, each the number of every parameter's value, meet most values, then most pairs."""
    every = set().union(*(case.items() for case in cases))
    values = [frozenset(case.items()) for case in cases]
    pairs = [frozenset(combinations(sorted(case.items()), 2)) for case in cases]
    seen_values: set[object] = set()
    seen_pairs: set[object] = set()
    kept: list[int] = []
    while len(kept) < len(cases) and (len(kept) < count if count else seen_values < every):
        left = [n for n in range(len(cases)) if n not in kept]
        best = max(left, key=lambda n: (len(values[n] - seen_values), len(pairs[n] - seen_pairs), -n))
        kept.append(best)
        seen_values |= values[best]
        seen_pairs |= pairs[best]
    return set(kept)
