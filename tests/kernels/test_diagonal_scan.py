"""`diagonal_scan` keeps the kernel contract for real, complex and time-invariant decays."""

import pytest
import torch

from seqmix.kernels import diagonal_scan
from seqmix.kernels.diagonal_scan.reference import diagonal_scan as reference
from tests.kernels.harness import KernelContract, OpCase, TritonContract

D = 5


def gates(*shape: int, complex_: bool = False) -> torch.Tensor:
    """Near-isometric: magnitudes in [0.999, 1], so that a lost carry shows."""
    magnitude = 0.999 + 0.001 * torch.rand(shape, dtype=torch.float64)
    if not complex_:
        return magnitude * torch.randint(0, 2, shape).mul(2).sub(1)
    return torch.polar(magnitude, 6.28 * torch.rand(shape, dtype=torch.float64))


def make(kind: str, invariant: bool):
    def build(batch: int, length: int) -> dict[str, torch.Tensor]:
        x = torch.randn(batch, length, D, dtype=torch.complex128 if kind == "complex" else torch.float64)
        shape = (D,) if invariant else (batch, length, D)
        return {"a": gates(*shape, complex_=kind != "real"), "x": x}

    return build


def case(name: str, kind: str, invariant: bool) -> OpCase:
    return OpCase(
        name,
        diagonal_scan,
        reference,
        make(kind, invariant),
        (D,),
        untimed=("a",) if invariant else (),
        complex_state=kind != "real",
        custom_op="diagonal_scan",
        low_precision=kind == "real",
    )


class TestDiagonalScan(KernelContract):
    cases = [
        case("real", "real", False),
        case("real-invariant", "real", True),
        case("complex", "complex", False),
        case("complex-invariant", "complex", True),
        case("complex-gate-real-input", "mixed", False),
    ]


class TestDiagonalScanTriton(TritonContract):
    cases = TestDiagonalScan.cases


def test_known_answer() -> None:
    """A constant decay of a sums a geometric series: h_T = (1 - a^T) / (1 - a)."""
    h, final = diagonal_scan(torch.tensor([0.5], dtype=torch.float64), torch.ones(1, 50, 1, dtype=torch.float64))
    expected = (1 - 0.5 ** torch.arange(1, 51, dtype=torch.float64)) / 0.5
    torch.testing.assert_close(h.flatten(), expected, rtol=1e-15, atol=0)
    assert final.item() == h[0, -1, 0].item()


def test_float32_gates_beside_bfloat16_values() -> None:
    """Decays above 0.99 do not survive bf16, so they may stay float32; the output takes the values' type."""
    a = torch.full((1, 400, 1), 0.999)
    x = torch.ones(1, 400, 1, dtype=torch.bfloat16)
    h, final = diagonal_scan(a, x)
    assert h.dtype == torch.bfloat16 and final.dtype == torch.float32
    expected = (1 - 0.999**400) / 0.001
    assert abs(final.item() / expected - 1) < 1e-5
    assert abs(h[0, -1, 0].item() / expected - 1) < 2**-8


def test_no_channels() -> None:
    with pytest.raises(ValueError, match="at least one channel"):
        diagonal_scan(torch.ones(1, 3, 0), torch.ones(1, 3, 0))
