"""Modules of somebody else as mixers: what fits, and what is told about what does not."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqmix import ModuleMixer, create_mixer
from seqmix.models import SequenceModel

MODULE = """
import torch
from torch import nn

class Averages(nn.Module):
    '''Running mean, as fla's layers call their arguments and return.'''

    def __init__(self, hidden_size, n_heads=2):
        super().__init__()
        self.proj, self.n_heads = nn.Linear(hidden_size, hidden_size), n_heads

    def forward(self, hidden_states, attention_mask=None, past_key_values=None, **kwargs):
        steps = torch.arange(1, hidden_states.shape[1] + 1, device=hidden_states.device)[:, None]
        return self.proj(hidden_states.cumsum(1) / steps), None, past_key_values
"""


class Layer(nn.Module):
    """`forward` is what a test gives."""

    def __init__(self, dim: int, how: Any, drop: float = 0.0) -> None:
        super().__init__()
        self.weight, self.how, self.drop = nn.Parameter(torch.ones(dim)), how, nn.Dropout(drop)

    def forward(self, x: Tensor) -> Any:
        return self.how(self.drop(x) * self.weight)


class Normed(nn.Module):
    def __init__(self, features: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x.mT).mT


@pytest.fixture
def averages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "averages_of_mine.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield "averages_of_mine:Averages"
    sys.modules.pop("averages_of_mine", None)


def test_a_class_by_its_path_is_a_mixer(averages: str) -> None:
    mixer = create_mixer(averages, 8, n_heads=4)
    assert isinstance(mixer, ModuleMixer) and mixer.module.n_heads == 4  # type: ignore[union-attr]
    x = torch.randn(2, 5, 8)
    y, state = mixer(x)
    assert y.shape == x.shape and state == mixer.init_state(2)
    torch.testing.assert_close(y[:, 2], mixer.module.proj(x[:, :3].mean(1)))  # type: ignore[union-attr, operator]
    for spec in ({"name": averages}, {"module": "averages_of_mine.Averages", "n_heads": 4}):
        model = SequenceModel(spec, vocab_size=5, d_model=8)
        assert model.config["mixer"][0]["name"] == averages
        model(torch.zeros(1, 3, dtype=torch.int64))[0].sum().backward()
        assert all(p.grad is not None for p in model.blocks[0].parameters())
    assert create_mixer(averages, 8, device="meta", dtype=torch.float64).module.proj.weight.is_meta  # type: ignore


def test_packed_sequences_do_not_see_each_other(averages: str) -> None:
    mixer = create_mixer(averages, 4)
    x, bounds = torch.randn(1, 9, 4), torch.tensor([0, 2, 2, 9], dtype=torch.int32)
    y, _ = mixer(x, cu_seqlens=bounds)
    torch.testing.assert_close(y[:, :2], mixer(x[:, :2])[0])
    torch.testing.assert_close(y[:, 2:], mixer(x[:, 2:])[0])


@pytest.mark.parametrize(
    ("how", "message"),
    [
        (lambda x: x + x.flip(1), "looks into the future: its output at position 0 changes with the input at"),
        (lambda x: x + nn.functional.pad(x, (0, 0, -2, 2)), "looks into the future: its output at position 5 changes"),
        (lambda x: x / x.std(), "looks into the future"),
        (lambda x: x + x.flip(0), "the output of one sequence changes with another one of the batch"),
        (lambda x: x[:, :-1], r"must return a tensor of the shape of x, .* got shape \(2, 11, 4\)"),
        (lambda x: {"y": x}, "got a dict"),
        (lambda x: (), "got a tuple"),
        (lambda x: x / 0, "returns numbers that are not finite"),
        (lambda x: x(1), "must be callable as module"),
    ],
)
def test_what_is_no_mixer_is_told_at_the_first_call(how: Any, message: str) -> None:
    mixer = ModuleMixer(4, module=Layer, how=how)
    for _ in range(2):
        with pytest.raises(ValueError, match=message):
            mixer.eval()(torch.randn(1, 3, 4))


def test_batch_statistics_leak_and_dropout_does_not() -> None:
    with pytest.raises(ValueError, match="Normed: looks into the future"):
        ModuleMixer(4, module=Normed).eval()(torch.randn(1, 3, 4))
    mixer = ModuleMixer(4, module=Layer, how=lambda x: x, drop=0.5)
    torch.manual_seed(0)
    expected = mixer.module(torch.ones(1, 3, 4))
    torch.manual_seed(0)
    assert torch.equal(mixer(torch.ones(1, 3, 4))[0], expected), "the trial takes no random numbers"


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_rounding_is_no_look_into_the_future(dtype: torch.dtype) -> None:
    class Attention(nn.Module):
        def __init__(self, d_model: int) -> None:
            super().__init__()
            self.qkv = nn.Linear(d_model, 3 * d_model)

        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.scaled_dot_product_attention(*self.qkv(x).chunk(3, -1), is_causal=True)

    ModuleMixer(16, module=Attention, dtype=dtype)(torch.randn(2, 40, 16, dtype=dtype))


def test_states_and_their_size() -> None:
    mixer = ModuleMixer(4, module=Layer, how=lambda x: x)
    with pytest.raises(NotImplementedError, match="Layer: its state's size is unknown; give state_size"):
        mixer.state_size(10)
    assert ModuleMixer(4, module=Layer, how=lambda x: x, state_size=12).state_size(10) == 12
    mixer.module.state_size = lambda sequence_length: 3 * sequence_length
    assert mixer.state_size(10) == 30
    mixer.module.state_size = lambda **kwargs: 7
    assert mixer.state_size(10) == 7
    with pytest.raises(NotImplementedError, match="cannot go token by token"):
        mixer.step(torch.zeros(1, 4), mixer.init_state(1))
    with pytest.raises(NotImplementedError, match="takes whole sequences only"):
        mixer(torch.zeros(1, 2, 4), mixer.init_state(1))
    with pytest.raises(ValueError, match="state must be None, got a tuple"):
        mixer(torch.zeros(1, 2, 4), ())


def test_mistakes_are_named(averages: str) -> None:
    with pytest.raises(ValueError, match="unknown argument of Averages: 'n_head'; did you mean 'n_heads'"):
        create_mixer(averages, 8, n_head=4)
    with pytest.raises(ValueError, match="Averages: hidden_size is the model's width, 8, and no argument; got 16"):
        create_mixer(averages, 8, hidden_size=16)
    with pytest.raises(ValueError, match=r"Layer: .*missing 1 required positional argument: 'how'"):
        ModuleMixer(8, module=Layer)
    with pytest.raises(ValueError, match=r"expected a class or function that builds an nn\.Module, got 8"):
        ModuleMixer(8, module=lambda d_model: d_model)  # type: ignore[arg-type, return-value]
    with pytest.raises(ValueError, match="state_size must be a number of at least 0 or null, got -1"):
        ModuleMixer(8, module=Layer, how=lambda x: x, state_size=-1)
    with pytest.raises(ValueError, match=r"module must be the path of a class, as my_package\.MyLayer, got 'Averages'"):
        SequenceModel({"module": "Averages"}, vocab_size=5, d_model=8)
