"""The contract's comparison for options that registry defaults leave off: one path for every T in these, too."""

import pytest
import torch

from seqmix.mixers import create_mixer
from seqmix.testing.comparison import (
    assert_same,
    chunked,
    inputs,
    measure,
    packed,
    separate,
    some_state,
    stepwise,
    whole,
)

SELECTIVE = {"position": "selective-rope"}
OPTIONS = [
    ("gla", SELECTIVE | {"d_conv": 4}),
    ("gla", {"position": "rope", "tie_decay": False}),
    ("gla", SELECTIVE | {"rope_options": {"rank": "full", "gate": "gla", "temperature": "rfa", "activation": "silu"}}),
    ("gla", SELECTIVE | {"tie_decay": False, "rope_options": {"d_conv": "difference", "gate": "standard"}}),
    ("deltanet", {"n_householder": 2, "eigenvalues": "signed"} | SELECTIVE),
    ("deltanet", {"n_householder": 3, "gated": True, "output_gate": True, "d_conv": 1}),
    ("deltanet", {"position": "rope", "gated": True}),
    ("attention", SELECTIVE | {"forget_gate": True, "d_conv": 4}),
    ("attention", SELECTIVE | {"forget_gate": True, "window": 3}),
    ("fp-rnn", {"rank": 0, "output_gate": False, "hidden_dependence": ["lambda", "b"]}),
    ("fp-rnn", {"mixing": "dplr", "hidden_dependence": ["c"], "solver": "direct"}),
    ("bd-lru", {"normalization": "sigmoid"}),
    ("bd-lru", {"normalization": "tanh", "selective": False}),
    ("h-lru", {"normalization": "relu", "order": 3}),
    ("h-lru", {"selective": False}),
    ("rg-lru", {"d_state": 24, "n_heads": 3, "d_conv": 1, "unit_start": False}),
    ("mamba-2", {"d_state": 4, "n_heads": 8, "n_groups": 2, "d_conv": 2}),
    ("mamba-3", {"d_state": 4, "n_heads": 8}),
    ("mlstm", {"expand_k": 0.5, "d_conv": 4}),
]


@pytest.fixture(params=OPTIONS, ids=str)
def mixer(request):
    torch.manual_seed(0)
    name, options = request.param
    return create_mixer(name, 16, **options, dtype=torch.float64)


def test_whole_equals_chunks_equals_steps(mixer):
    x, state = inputs(2, 70), some_state(mixer, 2)
    expected = measure(mixer, x, state, whole)
    for run in (chunked(1, 2), chunked(64, 2, 1), stepwise):
        assert_same(measure(mixer, x, state, run), expected, 1e-9, "chunks or steps")


@pytest.mark.parametrize("lengths", [[5, 0, 1, 7], [2, 0, 0]], ids=str)
def test_packed_equals_separate(mixer, lengths):
    x, state = inputs(1, sum(lengths)), some_state(mixer, len(lengths))
    expected = measure(mixer, x, state, separate(lengths))
    assert_same(measure(mixer, x, state, packed(lengths)), expected, 1e-9, "packed")


def test_state_size_counts_every_number(mixer):
    _, state = mixer(inputs(2, 9))
    assert mixer.state_size(9) == sum(leaf[0].numel() for leaf in state if leaf.is_floating_point())
