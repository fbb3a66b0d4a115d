"""Zero tokens in the variants of layers that the contract, which takes the defaults, does not meet."""

from functools import partial
from typing import Any

import pytest
import torch

from seqmix import BDLRU, DeltaNet, FixedPointMamba, FixedPointRNN, SelectiveRoPE, create_mixer
from seqmix.mixers._heads import unit
from seqmix.testing import MIXER_CHECKS

ZEROS = [check for check in MIXER_CHECKS if check.name.startswith("zeros")]
VARIANTS: dict[str, Any] = {
    "bd-lru, signed": partial(BDLRU, normalization="l1"),
    "bd-lru, rectified": partial(BDLRU, normalization="relu"),
    "h-lru, signed": partial(create_mixer, "h-lru", normalization="tanh"),
    "deltanet, signed and gated": partial(
        DeltaNet, n_householder=2, eigenvalues="signed", gated=True, output_gate=True, d_conv=1
    ),
    "deltanet, selective": partial(DeltaNet, position="selective-rope", rope_options={"rank": "full"}),
    "gla, selective": partial(create_mixer, "gla", position="selective-rope"),
    "attention, selective": partial(create_mixer, "attention", position="selective-rope", forget_gate=True),
    "fp-rnn, b sees the state": partial(FixedPointRNN, hidden_dependence=("lambda", "mixing", "b", "c")),
    "fp-rnn, b alone written": partial(FixedPointRNN, write="b", hidden_dependence=("lambda", "mixing", "b", "c")),
    "fp-rnn, Kronecker": partial(FixedPointRNN, mixing="kronecker"),
    "fp-mamba, no gate sees the state": partial(FixedPointMamba, hidden_dependence=()),
    "fp-mamba, the output gate alone": partial(FixedPointMamba, hidden_dependence=("gate",)),
}


@pytest.mark.parametrize("check", ZEROS, ids=str)
@pytest.mark.parametrize("variant", VARIANTS)
def test_zeros_are_harmless(variant: str, check: Any) -> None:
    check(VARIANTS[variant])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_a_unit_vector_and_a_zero(dtype: torch.dtype) -> None:
    """x / sqrt(|x|^2 + 1e-6), as in flash-linear-attention: a slope of 1,000 at zero."""
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0], [6e-4, 8e-4]], dtype=dtype, requires_grad=True)
    y = unit(x)
    expected = torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.6 / 2**0.5, 0.8 / 2**0.5]], dtype=dtype)
    torch.testing.assert_close(y, expected, rtol=2e-3 if dtype.itemsize < 4 else 1e-6, atol=0)
    (slope,) = torch.autograd.grad(y[1, 0], x)
    torch.testing.assert_close(slope[1, 0].double(), torch.tensor(1e3, dtype=torch.float64), rtol=5e-3, atol=0)


@pytest.mark.parametrize("rank", [4, "full"])
def test_the_angle_of_a_zero_token_has_a_bounded_slope(rank: Any) -> None:
    rope = SelectiveRoPE(16, 2, 4, rank=rank)
    x = torch.zeros(1, 5, 16, requires_grad=True)
    omega, _ = rope.increments(x, rope.init_state(1, "cpu", torch.float32).window, None)
    (gradient,) = torch.autograd.grad(omega.sum(), x)
    assert 1 < gradient.abs().max() < 1e4


def test_signed_gates_of_a_zero_row_have_a_bounded_slope() -> None:
    layer = BDLRU(8, block_size=2, normalization="l1")
    x = torch.zeros(1, 3, 8, requires_grad=True)
    (gradient,) = torch.autograd.grad(layer.gates(x)[..., 0, 0].sum(), x)
    assert 0 < gradient.abs().max() < 1e3
    whole = layer.gates(torch.randn(1, 3, 8)).abs().sum(-1)
    torch.testing.assert_close(whole, torch.ones_like(whole))
