"""Vectors in registers compute what numbers do, whatever processor is compiled for."""

import hashlib
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from seqmix.kernels import _lanes
from seqmix.kernels._lanes import (
    choose,
    first_of,
    fma,
    lanes,
    load,
    load4,
    registers,
    spread,
    store,
    store4,
    totals,
    turn,
    width,
)  # fmt: skip
from seqmix.kernels._numba import jit

TYPES = pytest.mark.parametrize("dtype", [np.float32, np.float64])


@jit()
def _combine(x, y, out):
    like = registers(x, 2)
    a, b = load(like, x, 1, 2), spread(like, y, 0)
    store(a * b + a, out, 0, 0)
    store(fma(a, b, load(like, x, 0, 1)), out, 1, 0)
    short = registers(x, 1)
    store(fma(a, b, short), out, 2, 0)
    return width(like)


@jit()
def _four(x, out):
    wide, four = registers(x, 1), lanes(x, 4)
    a, b, c, d = load4(wide, x, 1, 3)
    sums = totals(a, b, c, d)
    store(sums, out, 0, 0)
    e, f, g, h = load4(four, x, 0, 1)
    e, f, g, h = turn(e, f, g, h)
    store4(e, f, g, h, out, 1, 2)
    return first_of(sums), width(wide)


@TYPES
def test_products_and_sums(dtype: type) -> None:
    x, y = np.random.default_rng(0).standard_normal((2, 40)).astype(dtype), np.array([1.5], dtype)
    out = np.zeros((3, 40), dtype)
    n = _combine(x, y, out)
    assert n * x.itemsize in (64, 128)
    a, c = x[1, 2 : 2 + n], x[0, 1 : 1 + n]
    close = {"rtol": 1e-6 if dtype is np.float32 else 1e-14}
    np.testing.assert_allclose(out[0, :n], a * 1.5 + a, **close)
    np.testing.assert_allclose(out[1, :n], a * 1.5 + c, atol=1e-7)
    np.testing.assert_allclose(out[2, : n // 2], (a * 1.5).reshape(2, -1).sum(0), atol=1e-6)
    assert not out[:2, n:].any() and not out[2, n // 2 :].any()


@jit()
def _larger(x, out):
    like = registers(x, 1)
    a, b = load(like, x, 0, 0), load(like, x, 1, 0)
    store(choose(a, b, a, like), out, 0)
    return width(like)


@TYPES
def test_larger_ones_are_chosen(dtype: type) -> None:
    """What is equal, or no number, is not larger."""
    x, out = np.random.default_rng(0).standard_normal((2, 16)).astype(dtype), np.ones(16, dtype)
    x[0, 0], x[1, 1], x[0, 2] = np.nan, np.nan, x[1, 2]
    n = _larger(x, out)
    np.testing.assert_array_equal(out[:n], np.where(x[0] > x[1], x[0], 0)[:n])
    assert (out[n:] == 1).all() and not out[:3].any()


@TYPES
def test_four_rows(dtype: type) -> None:
    x = np.random.default_rng(0).standard_normal((6, 20)).astype(dtype)
    out = np.zeros((5, 8), dtype)
    total, n = _four(x, out)
    np.testing.assert_allclose(out[0, :4], x[1:5, 3 : 3 + n].sum(1), atol=1e-5)
    assert total == out[0, 0]
    np.testing.assert_array_equal(out[1:, 2:6], x[:4, 1:5].T)
    assert not out[0, 4:].any() and not out[1:, :2].any() and not out[1:, 6:].any()


@pytest.mark.parametrize("name", ["LANES", "TILES"])
def test_kernels_are_compiled_again_when_what_they_call_changes(name: str) -> None:
    """Numba asks only the file of a kernel whether what it compiled is old: that file has to change, too."""
    file = Path(_lanes.__file__).with_name(f"_{name.lower()}.py")
    digest = hashlib.sha256(file.read_text().encode()).hexdigest()[:8]
    users = [each for each in file.parent.rglob("*.py") if f"kernels.{file.stem} import" in each.read_text()]
    assert users
    for user in users:
        found = re.search(rf'^{name} = "(\w+)"', user.read_text(), re.MULTILINE)
        assert found and found[1] == digest, f'{user} must say {name} = "{digest}"'


@jit()
def _copy(like, source, target):
    store(load(registers(like, 1), source, 0, 0), target, 0, 0)


@jit()
def _copy_of_a_row(like, source, target):
    store(load(registers(like, 1), source, 0), target, 0, 0)


def test_other_arrays_are_refused() -> None:
    """What follows a number in memory is not what follows it in these: they would be read as they lie, silently."""
    x, out = np.ones((4, 40), np.float32), np.zeros((2, 40), np.float32)
    _copy(x, x, out)
    wrong: list[tuple[Any, np.ndarray]] = [(_copy, x.astype(np.float64)), (_copy, x[:, ::2]), (_copy, x.T)]
    for call, source in [*wrong, (_copy_of_a_row, x)]:
        with pytest.raises(TypeError, match="contiguous"):
            call(x, source, out)
