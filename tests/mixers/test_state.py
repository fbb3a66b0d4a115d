"""Helpers of states: what `select` takes."""

import numpy as np
import pytest
import torch

from seqmix.mixers import BDLRU, create_mixer, list_mixers
from seqmix.models import SequenceModel


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


@pytest.mark.parametrize("name", list_mixers())
def test_a_state_prints_what_it_holds_and_no_numbers(name: str) -> None:
    state = create_mixer(name, 8).init_state(3)
    fields = (
        f"{field}={str(leaf.dtype).removeprefix('torch.')} of shape {tuple(leaf.shape)} on cpu"
        for field, leaf in zip(state._fields, state, strict=True)
    )
    assert repr(state) == str(state) == f"{type(state).__name__}({', '.join(fields)})"


def test_states_within_states_print_too() -> None:
    model = SequenceModel(["lstm", "lru"], 11, 8, 2)
    lstm, lru = (repr(layer) for layer in model.init_state(2).layers)
    assert repr(model.init_state(2)) == f"SequenceModelState(layers=({lstm}, {lru}))"
    assert repr(SequenceModel("lru", 11, 8).init_state(2)) == f"SequenceModelState(layers=({lru},))"
    assert repr(SequenceModel("lru", 11, 8, bidirectional=True).init_state(2).layers[0]) == "BidirectionalState()"
