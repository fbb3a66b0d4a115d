"""Meshes of sequences and batches."""

import pytest

from tests.distributed.meshes import HOW, run


@pytest.mark.slow
def test_two_by_two_processes_are_one() -> None:
    found = run()
    assert found.keys() == set(HOW)
    assert max(found.values()) < 1e-9, found
