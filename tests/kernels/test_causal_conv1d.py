"""`causal_conv1d` keeps the kernel contract; windows are states and reach across no boundary."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import conv1d, pad, silu

from seqmix.kernels import causal_conv1d
from seqmix.kernels.causal_conv1d import reference
from tests.kernels.harness import KernelContract, OpCase, TritonContract


def make(channels: int, width: int, biased: bool = True):
    def build(batch: int, length: int) -> dict[str, Tensor]:
        inputs = {
            "x": torch.randn(batch, length, channels, dtype=torch.float64),
            "weight": torch.randn(channels, width, dtype=torch.float64),
        }
        return inputs | ({"bias": torch.randn(channels, dtype=torch.float64)} if biased else {})

    return build


def case(name: str, channels: int, width: int, biased: bool, activation: str | None) -> OpCase:
    return OpCase(
        name,
        causal_conv1d,
        reference.causal_conv1d,
        make(channels, width, biased),
        (width - 1, channels),
        untimed=("weight", "bias"),
        custom_op="causal_conv1d",
        options={"activation": activation},
    )


class TestCausalConv1d(KernelContract):
    cases = [
        case("width 4, silu", 21, 4, True, "silu"),
        case("width 3", 5, 3, False, None),
        case("width 7", 2, 7, True, None),
    ]


class TestCausalConv1dTriton(TritonContract):
    cases = TestCausalConv1d.cases


@pytest.mark.parametrize("activation", [None, "silu"])
def test_equals_torch(activation: str | None) -> None:
    inputs = make(8, 4)(2, 30)
    y, window = causal_conv1d(**inputs, activation=activation)
    padded = pad(inputs["x"].mT, (3, 0))
    expected = conv1d(padded, inputs["weight"][:, None], inputs["bias"], groups=8).mT
    torch.testing.assert_close(y, silu(expected) if activation else expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(window, inputs["x"][:, -3:])


def test_width_one_has_an_empty_window() -> None:
    """No lag, no state: an elementwise product, packed or not."""
    inputs = {n: t.requires_grad_() for n, t in make(3, 1)(1, 9).items()}
    offsets = torch.tensor([0, 0, 4, 9], dtype=torch.int32)
    for cu_seqlens, sequences in ((None, 1), (offsets, 3)):
        y, window = causal_conv1d(**inputs, activation="silu", cu_seqlens=cu_seqlens)
        assert window.shape == (sequences, 0, 3)
        expected = silu(inputs["x"] * inputs["weight"][:, 0] + inputs["bias"])
        torch.testing.assert_close(y, expected, rtol=1e-12, atol=1e-12)
        found, wanted = (torch.autograd.grad(out.square().sum(), list(inputs.values())) for out in (y, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_short_chunks_mix_old_and_new_inputs() -> None:
    """A chunk of one after a window of three: two old rows move up, one new row comes in."""
    inputs = make(4, 4)(2, 1)
    old = torch.randn(2, 3, 4, dtype=torch.float64)
    _, window = causal_conv1d(**inputs, initial_state=old)
    assert torch.equal(window, torch.cat((old[:, 1:], inputs["x"]), dim=1))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32], ids=str)
def test_window_has_the_type_of_the_input(dtype: torch.dtype) -> None:
    inputs = {n: t.to(dtype) for n, t in make(4, 3)(2, 5).items()}
    y, window = causal_conv1d(**inputs)
    assert y.dtype == window.dtype == dtype
    assert torch.equal(window, inputs["x"][:, -2:])


def test_silu_at_the_ends() -> None:
    x = torch.tensor([-1e4, -100.0, -20.0, 0.0, 20.0, 100.0, 1e4]).view(1, -1, 1)
    y, _ = causal_conv1d(x, torch.ones(1, 1), activation="silu")
    torch.testing.assert_close(y, silu(x), rtol=1e-6, atol=1e-30)


def test_bad_input() -> None:
    inputs = make(4, 3)(2, 5)
    for name, bad, match in (
        ("weight", inputs["weight"][:-1], r"weight must have shape \(4, 3\)"),
        ("weight", inputs["weight"][:, :0], "weight must hold at least one tap"),
        ("bias", inputs["bias"][:-1], r"bias must have shape \(4,\)"),
        ("bias", inputs["bias"].float(), "bias cannot be mixed with x"),
        ("activation", "relu", "activation must be None or 'silu', got 'relu'"),
    ):
        with pytest.raises(ValueError, match=match):
            causal_conv1d(**(inputs | {name: bad}))
