"""In `batch_invariant` every mixer of the registry gives a sequence the same bits however it comes, or says why not."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from seqmix import create_mixer, list_mixers
from seqmix.mixers.base import TokenMixer
from seqmix.models import SequenceModel
from tests.kernels.invariant import invariant

B, T = 3, 22


def whole(layer: TokenMixer, x: Tensor) -> Tensor:
    return layer(x)[0]


def packed(layer: TokenMixer, x: Tensor) -> Tensor:
    offsets = torch.arange(0, len(x) * T + 1, T, dtype=torch.int32)
    return layer(x.flatten(0, 1)[None], cu_seqlens=offsets)[0].view_as(x)


def cut(*lengths: int) -> Callable[[TokenMixer, Tensor], Tensor]:
    def run(layer: TokenMixer, x: Tensor) -> Tensor:
        state, parts = None, []
        for part in x.split(lengths, 1):
            y, state = layer(part, state)
            parts.append(y)
        return torch.cat(parts, 1)

    return run


def bits(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


@pytest.mark.parametrize("width", [64, 24])
@pytest.mark.parametrize("name", list_mixers())
def test_same_bits(name: str, width: int) -> None:
    torch.manual_seed(0)
    layer, x = create_mixer(name, width), torch.randn(B, T, width)
    many = torch.cat((x, torch.randn(10, T, width)))
    with torch.no_grad(), invariant():
        y = whole(layer, x)
        for batch in (x[1:2], many):
            place = slice(1, 2) if len(batch) == 1 else slice(None)
            assert bits(whole(layer, batch)[:B], y[place]), f"of {len(batch)}"
            assert bits(packed(layer, batch)[:B], y[place]), f"packed with {len(batch)}"
        for cuts in ((1, 13, 8), (1,) * T):
            for batch in (x, x[:1]):
                if layer.varies_when_cut or any(getattr(m, "varies_when_cut", "") for m in layer.modules()):
                    with pytest.raises(NotImplementedError, match=f"{type(layer).__name__}: batch_invariant takes"):
                        cut(*cuts)(layer, batch)
                else:
                    assert bits(cut(*cuts)(layer, batch), y[: len(batch)]), f"{len(batch)} in {len(cuts)} parts"


@pytest.mark.parametrize("name", list_mixers())
def test_gradients_are_those_of_outside(name: str) -> None:
    torch.manual_seed(1)
    layer, x = create_mixer(name, 32), torch.randn(B, T, 32, requires_grad=True)
    upstream = torch.randn(B, T, 32)
    (expected,) = torch.autograd.grad(whole(layer, x), x, upstream)
    with invariant():
        (found,) = torch.autograd.grad(whole(layer, x), x, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("threads", [1, 2])
def test_models(dtype: torch.dtype, threads: int) -> None:
    """Prefill and decode of a whole model, of other types and on two threads; numbers are those of outside."""
    torch.manual_seed(2)
    model, tokens = SequenceModel(["bd-lru", "mamba"], 50, 40, 2).to(dtype), torch.randint(50, (5, 9))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with torch.no_grad(), invariant():
            logits, _ = model(tokens)
            _, state = model(tokens[:1, :8])
            last, _ = model(tokens[:1, 8:], state)
        assert bits(last, logits[:1, 8:])
        tolerance = 0.1 if dtype == torch.bfloat16 else 1e-9
        torch.testing.assert_close(logits, model(tokens)[0], rtol=tolerance, atol=tolerance)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("fp-rnn", {"mixing": "kronecker"}, "FixedPointRNN: batch_invariant is not for this layer: .* dense"),
        ("fp-mamba", {"rank": 3}, "FixedPointMamba: batch_invariant is not for this layer: .* dense"),
        ("fp-rnn", {"solver": "sweeps"}, "FixedPointRNN: batch_invariant takes whole sequences alone: .* together"),
    ],
)
def test_solvers_that_differ_are_refused_by_name(name: str, options: dict[str, object], named: str) -> None:
    layer, x = create_mixer(name, 32, **options), torch.randn(1, 3, 32)
    _, state = layer(x)
    with invariant(), pytest.raises(NotImplementedError, match=named):
        layer(x, state)


def test_positions_that_round_are_refused_by_name() -> None:
    layer = create_mixer("gla", 32, position="selective-rope")
    _, state = layer(torch.randn(1, 3, 32))
    with invariant(), pytest.raises(NotImplementedError, match=r"GatedLinearAttention: .* angle is rounded"):
        layer(torch.randn(1, 3, 32), state)
