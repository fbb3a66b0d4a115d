"""Helpers of states: what `select` takes."""

import numpy as np
import pytest
import torch

from seqmix.mixers import BDLRU


@pytest.mark.parametrize(
    ("index", "rows"),
    [
        (1, [1]),
        (-1, [2]),
        (np.int64(1), [1]),
        ([], []),
        ([2, 0, 0], [2, 0, 0]),
        ((0, 1), [0, 1]),
        (slice(1, None), [1, 2]),
        (torch.tensor([2, -3]), [2, 0]),
        (torch.tensor([True, False, True]), [0, 2]),
    ],
    ids=str,
)
def test_select_keeps_the_batch_axis(index, rows: list[int]) -> None:
    state = BDLRU(8, block_size=2)(torch.randn(3, 4, 8))[1]
    assert torch.equal(state.select(index).h, state.h[rows])


def test_select_refuses_what_is_no_number() -> None:
    state = BDLRU(8, block_size=2).init_state(3)
    with pytest.raises(TypeError):
        state.select([0.5])
