"""`selective_rotary` keeps the kernel contract, does not drift, and is RoPE for constant increments."""

import math

import pytest
import torch
from torch import Tensor

from seqmix.kernels import selective_rotary
from seqmix.kernels.selective_rotary import reference
from tests.kernels.harness import KernelContract, MatrixTritonContract, OpCase, TritonContract


def make(heads: int, width: int, scale: float):
    def build(batch: int, length: int) -> dict[str, Tensor]:
        def normal(size: int) -> Tensor:
            return torch.randn(batch, length, heads, size, dtype=torch.float64)

        return {"q": normal(width), "k": normal(width), "increment": scale * normal(width // 2)}

    return build


class TestSelectiveRotary(KernelContract):
    cases = [
        OpCase(
            f"K={width}, angles {scale}",
            selective_rotary,
            reference.selective_rotary,
            make(heads, width, scale),
            (heads, width // 2),
            custom_op="selective_rotary",
            exact_state=False,  # within a call the angle is finer than a state of float32
        )
        for heads, width, scale in ((2, 6, 0.01), (3, 2, 1.0), (1, 40, 0.3))
    ]


class TestSelectiveRotaryTriton(MatrixTritonContract):
    cases = TestSelectiveRotary.cases[:1]
    test_walked_whole = TritonContract.test_walked_whole
    test_cut_into_chunks = TritonContract.test_cut_into_chunks


def turn(x: Tensor, angle: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    turned = torch.complex(first, second) * torch.polar(torch.ones_like(angle), angle)
    return torch.cat((turned.real, turned.imag), dim=-1)


def test_equals_complex_multiplication() -> None:
    inputs, start = make(2, 8, 2.0)(2, 300), 3 * torch.randn(2, 2, 4, dtype=torch.float64)
    (q, k), final = selective_rotary(**inputs, initial_state=start)
    angle = inputs["increment"].cumsum(1) + start[:, None]
    torch.testing.assert_close(q, turn(inputs["q"], angle), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(k, turn(inputs["k"], angle), rtol=1e-10, atol=1e-10)
    assert final.abs().max() <= math.pi
    torch.testing.assert_close(final.cos(), angle[:, -1].cos(), rtol=0, atol=1e-10)
    torch.testing.assert_close(final.sin(), angle[:, -1].sin(), rtol=0, atol=1e-10)


@pytest.mark.parametrize("backend", ["cpu", "reference", "triton"])
def test_angles_do_not_drift(backend: str) -> None:
    """T = 65,536 in float32, less where that is slow: in one pass, in chunks, with steps all alike, to 1e-4 rad."""
    length = {"cpu": 65_536, "reference": 8_192, "triton": 4_096}[backend]
    increment = torch.randn(1, length, 1, 3).abs()
    increment[..., 0] = 1.0
    increment[..., 1] = 0.1
    true = increment.double().cumsum(1)
    x = torch.tensor([1.0, 1, 1, 0, 0, 0]).expand(1, length, 1, 6)
    (q, _), final = selective_rotary(x, x, increment, backend=backend)
    assert (torch.complex(*q.double().chunk(2, -1)) - torch.polar(torch.ones_like(true), true)).abs().max() < 1e-4
    carry, turned = None, []
    for part in increment.split(length // 2 if backend == "triton" else 100, dim=1):
        (piece, _), carry = selective_rotary(*(2 * [x[:, : part.shape[1]]]), part, initial_state=carry, backend=backend)
        turned.append(piece)
    assert (torch.cat(turned, 1) - q).abs().max() < 1e-4
    assert (final - carry).abs().max() < 1e-4


def test_constant_increments_are_rope() -> None:
    """Scores depend on the distance alone."""
    q, k = torch.randn(8, dtype=torch.float64), torch.randn(8, dtype=torch.float64)
    frequencies = (100.0 ** -torch.linspace(0, 1, 4, dtype=torch.float64)).expand(1, 50, 1, 4)
    (turned_q, turned_k), _ = selective_rotary(q.expand(1, 50, 1, 8), k.expand(1, 50, 1, 8), frequencies)
    scores = turned_q[0, :, 0] @ turned_k[0, :, 0].T
    for distance in (-7, 0, 13):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal), rtol=1e-10, atol=1e-10)


def test_cosine_and_sine_all_around() -> None:
    angle = torch.linspace(-10, 10, 40_001).view(-1, 1, 1, 1)
    x = torch.tensor([1.0, 0.0]).expand(len(angle), 1, 1, 2)
    (q, _), _ = selective_rotary(x, x, angle)
    expected = torch.cat((angle.double().cos(), angle.double().sin()), dim=-1)
    assert (q - expected).abs().max() < 1.5e-7


def test_mixed_types_and_bad_input() -> None:
    inputs = make(2, 4, 1.0)(2, 5)
    half = {n: t.float() if n == "increment" else t.bfloat16() for n, t in inputs.items()}
    (q, k), final = selective_rotary(**half)
    assert (q.dtype, k.dtype, final.dtype) == (torch.bfloat16, torch.bfloat16, torch.float32)
    for name, bad, match in (
        ("k", inputs["k"][..., :-2], r"k must have shape \(2, 5, 2, 4\)"),
        ("increment", inputs["increment"][..., :-1], r"increment must have shape \(2, 5, 2, 2\)"),
        ("increment", inputs["increment"].float(), "increment cannot be mixed with q"),
    ):
        with pytest.raises(ValueError, match=match):
            selective_rotary(**(inputs | {name: bad}))
    odd = {n: t[..., :3] if n != "increment" else t[..., :1] for n, t in inputs.items()}
    with pytest.raises(ValueError, match="even width K"):
        selective_rotary(**odd)
