"""What a sample of many combinations holds."""

from itertools import combinations, product

import pytest

from tests.sampling import chosen


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
