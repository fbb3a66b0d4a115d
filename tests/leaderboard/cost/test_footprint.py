"""What a record says of a model's state and of decoding."""

import functools

import pytest
import torch
from torch import nn

from seqmix import ModuleMixer, list_mixers
from seqmix.leaderboard.cost.footprint import decode_milliseconds, state_bytes, state_size
from seqmix.models import SequenceModel


def bytes_after(model: SequenceModel, length: int) -> int | None:
    _, state = model(torch.zeros(1, 1, dtype=torch.int64))
    return state_bytes(model, state, length)


@pytest.mark.parametrize("name", list_mixers())
def test_single_precision_is_four_bytes_a_number(name: str) -> None:
    model = SequenceModel([name, "lstm"], vocab_size=5, d_model=16, n_layers=2).eval()
    with torch.no_grad():
        for length in (1, 7):
            assert bytes_after(model, length) == 4 * model.state_size(length)


def test_bytes_follow_the_types_in_which_states_are_kept() -> None:
    def model(*mixers: object) -> SequenceModel:
        return SequenceModel(list(mixers), vocab_size=5, d_model=16, n_layers=len(mixers), dtype=torch.bfloat16)

    with torch.no_grad():
        cache, conv = model({"name": "attention", "n_heads": 2}), model({"name": "mamba", "d_state": 4, "expand": 2})
        assert bytes_after(cache, 100) == 100 * 2 * 16 * 2  # keys and values in bfloat16
        # 32 channels: a window of 3 in bfloat16, 4 numbers in float32.
        assert bytes_after(conv, 100) == 32 * (3 * 2 + 4 * 4)
        both = model({"name": "attention", "n_heads": 2}, {"name": "mamba", "d_state": 4, "expand": 2})
        assert bytes_after(both, 100) == bytes_after(cache, 100) + bytes_after(conv, 100)
        window = model({"name": "attention", "n_heads": 2, "window": 8})
        assert bytes_after(window, 100) == 2 * window.state_size(100) == 7 * 2 * 16 * 2


def test_decoding_is_timed_where_there_is_any() -> None:
    assert (decode_milliseconds(SequenceModel("lstm", vocab_size=5, d_model=8)) or 0) > 0
    assert decode_milliseconds(SequenceModel("lstm", vocab_size=5, d_model=8, bidirectional=True)) is None
    head = {"name": "classification", "n_classes": 3}
    assert decode_milliseconds(SequenceModel("lstm", vocab_size=5, d_model=8, head=head)) is None


def test_what_sees_whole_sequences_only_has_no_bytes() -> None:
    both = SequenceModel("lstm", vocab_size=5, d_model=8, bidirectional=True)
    assert bytes_after(both, 10) is None and state_size(both, 10) == 2 * 16
    layer = functools.partial(ModuleMixer, module=nn.Identity)
    whole = SequenceModel(layer, vocab_size=5, d_model=8)
    assert (state_size(whole, 10), bytes_after(whole, 10), decode_milliseconds(whole)) == (None, None, None)
