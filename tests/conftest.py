"""Shared fixtures: fresh memory is poisoned, random numbers are seeded, kernel contracts get their cases."""

import importlib
import importlib.util
import os
from collections.abc import Iterator

import pytest
import torch

from tests.sampling import sample

# Triton's kernels are interpreted where there is no GPU. Triton reads this when it is imported: later is too late.
INTERPRETED = not torch.cuda.is_available()
if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"


@pytest.fixture(autouse=True)
def poisoned_memory() -> Iterator[None]:
    """Uninitialised memory is filled with NaN, so that a kernel that forgets to write an element shows."""
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(before)


@pytest.fixture(scope="session", autouse=True)
def scans_in_a_tree() -> None:
    """Triton's interpreter scans element by element, from the left; a GPU combines in a tree.

    In that order a combine function that is not associative, or mixes up its sides, shows. It is faster as well.
    """
    if INTERPRETED and importlib.util.find_spec("triton"):
        importlib.import_module("tests.kernels.interpreter").prepare()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests of compiled Triton kernels are GPU tests; interpreted, they belong to the default ones.

    Those are classes and parameters with the backend "triton", and what is marked as such.
    """
    for item in items:
        parameters = getattr(item, "callspec", None)
        backends = (
            getattr(getattr(item, "cls", None), "backend", None),
            parameters and parameters.params.get("backend"),
        )
        if "triton" in backends:
            item.add_marker(pytest.mark.triton)
        if not INTERPRETED and item.get_closest_marker("triton"):
            item.add_marker(pytest.mark.gpu)
    sample(items)


@pytest.fixture(autouse=True)
def on_the_device(request: pytest.FixtureRequest) -> Iterator[None]:
    """Tests of Triton kernels make their tensors on the GPU where there is one."""
    if INTERPRETED or request.node.get_closest_marker("triton") is None:
        yield
    else:
        with torch.device("cuda"):
            yield


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrises the tests of a `KernelContract` subclass over its class attribute `cases`."""
    cases = getattr(metafunc.cls, "cases", None)
    if cases is not None and "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])
