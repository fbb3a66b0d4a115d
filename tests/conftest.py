"""Shared fixtures: fresh memory is poisoned, random numbers are seeded, kernel contracts get their cases."""

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Uninitialised memory is filled with NaN, so that a kernel that forgets to write an element shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(before)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrises the tests of a `KernelContract` subclass over its class attribute `cases`."""
    cases = getattr(metafunc.cls, "cases", None)
    if cases is not None and "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])
