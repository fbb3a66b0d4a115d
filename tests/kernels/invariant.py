"""`batch_invariant` for tests: on a processor whose products cannot have the property they are skipped, and say so."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from seqmix.kernels import batch_invariant


@contextmanager
def invariant() -> Iterator[None]:
    try:
        with batch_invariant():
            yield
    except NotImplementedError as error:
        if "no block of rows has it here" in str(error):
            pytest.skip(str(error))
        raise
