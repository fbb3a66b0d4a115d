"""What benches are held against."""

import pytest

from seqmix.benchmarks.goals import kernel_goals


@pytest.mark.parametrize("dtype", ["float32", "complex64"])
def test_goals_of_kernels_are_judged_in_their_own_numbers(dtype: str) -> None:
    """`gather_scan` is timed in complex numbers, which its goal once passed over."""
    row = {"case": "gather_scan", "pass": "forward", "threads": 1, "dtype": dtype, "role": "other", "sweep": None}
    rows = [row | {"contestant": "seqmix", "median_ms": 2.0}, row | {"contestant": "diagonal_scan", "median_ms": 1.0}]
    (found,) = kernel_goals(rows)
    assert "gather_scan" in found[0] and found[1:] == ("2.00 x", True)
    assert kernel_goals([row | {"dtype": "bfloat16"} for row in rows]) == []
