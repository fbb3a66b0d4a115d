"""`selective_scan` keeps the kernel contract, with decays near 1, near -1 and in between."""

import math

import pytest
import torch
from torch import Tensor

from seqmix.kernels import diagonal_scan, selective_scan
from seqmix.kernels.selective_scan import reference
from tests.kernels.harness import KernelContract, MatrixTritonContract, OpCase, TritonContract, compare


def make(channels: int, states: int, direct: bool = True, signed: bool = False):
    def build(batch: int, length: int) -> dict[str, Tensor]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, dtype=torch.float64)

        # dt is about 0.1 and A about -1e-2, so decays lie in [0.998, 1] and a lost carry shows; where signed, every
        # second channel has a large rate, and its decay lies near -1.
        rates = 1e-2 * torch.rand(channels, states, dtype=torch.float64)
        if signed:
            rates[::2] += 200
        inputs = {
            "x": normal(batch, length, channels),
            "dt": 0.05 + 0.1 * torch.rand(batch, length, channels, dtype=torch.float64),
            "A": -rates,
            "B": normal(batch, length, states),
            "C": normal(batch, length, states),
        }
        return inputs | ({"D": normal(channels)} if direct else {})

    return build


def case(name: str, channels: int, states: int, signed: bool = False) -> OpCase:
    return OpCase(
        name,
        selective_scan,
        reference.selective_scan,
        make(channels, states, direct=not signed, signed=signed),
        (channels, states),
        untimed=("A",) if signed else ("A", "D"),
        custom_op="selective_scan",
        options={"signed": True} if signed else {},
    )


class TestSelectiveScan(KernelContract):
    cases = [case("decay", 70, 3), case("signed", 5, 16, signed=True)]


class TestSelectiveScanTriton(MatrixTritonContract):
    cases = [case("decay", 5, 3), case("signed", 5, 2, signed=True)]
    test_walked_whole = TritonContract.test_walked_whole
    test_cut_into_chunks = TritonContract.test_cut_into_chunks


@pytest.mark.triton
def test_triton_over_several_blocks() -> None:
    wide = case("wide", 35, 3)
    compare(wide, wide.make(1, 20), wide.state(1), torch.float32, backend="triton")


@pytest.mark.parametrize("scale", [1e-4, 1.0, 10.0])
def test_exponential_is_as_good_as_torch(scale: float) -> None:
    """One step from a state of ones shows e^{dt A} itself."""
    rates = torch.randn(1000, 5) * scale
    one, nothing = torch.ones(1, 1, 1000), torch.zeros(1, 1, 5)
    _, final = selective_scan(one, one, rates, nothing, nothing, initial_state=torch.ones(1, 1000, 5))
    expected = rates.double().exp()
    assert ((final[0] - expected).abs() / expected).max() < 2e-7


def test_exponential_at_the_ends() -> None:
    rates = torch.tensor([[-math.inf, -200.0, -87.0, 0.0, 87.0, 200.0, math.inf, math.nan]])
    one, nothing = torch.ones(1, 1, 1), torch.zeros(1, 1, 8)
    _, final = selective_scan(one, one, rates, nothing, nothing, initial_state=torch.ones(1, 1, 8))
    torch.testing.assert_close(final[0], rates.exp(), rtol=2e-7, atol=1e-37, equal_nan=True)


@pytest.mark.parametrize("signed", [False, True])
def test_one_state_is_a_diagonal_scan(signed: bool) -> None:
    inputs = make(7, 1, signed=signed)(2, 90)
    y, final = selective_scan(**inputs, signed=signed)
    decay = (inputs["dt"] * inputs["A"][:, 0]).exp()
    h, h_final = diagonal_scan(2 * decay - 1 if signed else decay, inputs["dt"] * inputs["x"] * inputs["B"])
    torch.testing.assert_close(y, h * inputs["C"] + inputs["D"] * inputs["x"], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(final[..., 0], h_final, rtol=1e-12, atol=1e-12)


def test_signed_with_fast_rates_flips_the_sign() -> None:
    """Decay 2 e^{-inf} - 1 = -1 exactly: the state alternates and loses nothing, which is parity."""
    one = torch.ones(1, 1001, 1)
    _, final = selective_scan(
        torch.zeros_like(one), one, torch.full((1, 1), -200.0), one, one, signed=True, initial_state=torch.ones(1, 1, 1)
    )
    assert final.item() == -1.0


def test_inputs_may_be_transposed() -> None:
    """(B, D, T) memory seen as (B, T, D): dense, so that `empty_like` would copy its strides."""
    inputs = {n: t.requires_grad_() for n, t in make(6, 2)(2, 40).items()}
    turned = {n: t.detach().mT.contiguous().mT.requires_grad_() if t.ndim == 3 else t for n, t in inputs.items()}
    results = []
    for arguments in (inputs, turned):
        y, final = selective_scan(**arguments)
        results.append([y, *torch.autograd.grad(y.square().sum() + final.sum(), list(arguments.values()))])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b)


def test_backward_keeps_only_borders() -> None:
    """Nothing of shape (B, T, D, N) is saved: the states kept are a small part of it."""
    batch, length, channels, states = 2, 256, 32, 8
    saved: list[int] = []
    inputs = {n: t.float().requires_grad_() for n, t in make(channels, states)(batch, length).items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        selective_scan(**inputs)
    assert max(saved) <= batch * length * channels * max(1, states // 16)


def test_mixed_types_and_bad_input() -> None:
    inputs = make(4, 2)(2, 5)
    half = {n: t.float() if n in ("dt", "A") else t.bfloat16() for n, t in inputs.items()}
    y, final = selective_scan(**half)
    assert (y.dtype, final.dtype) == (torch.bfloat16, torch.float32)
    for name, bad, match in (
        ("dt", inputs["dt"][..., :-1], r"dt must have shape \(2, 5, 4\)"),
        ("A", inputs["A"][:-1], r"A must have shape \(4, 2\)"),
        ("A", inputs["A"][:, :0], "A must hold at least one channel and one state"),
        ("B", inputs["B"][:, :-1], r"B must have shape \(2, 5, 2\)"),
        ("C", inputs["C"][..., :-1], r"C must have shape \(2, 5, 2\)"),
        ("D", inputs["D"][:-1], r"D must have shape \(4,\)"),
        ("D", inputs["D"].float(), "D cannot be mixed with x"),
        ("signed", "yes", "signed must be True or False"),
    ):
        with pytest.raises(ValueError, match=match):
            selective_scan(**(inputs | {name: bad}))
