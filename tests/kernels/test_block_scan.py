"""`block_scan` and `gated_block_scan` keep the kernel contract; permutations are carried exactly."""

import pytest
import torch

from seqmix.kernels import block_scan, gated_block_scan
from seqmix.kernels.block_scan import reference
from tests.kernels.harness import KernelContract, OpCase, TritonContract, compare


def matrices(batch: int, length: int, blocks: int, m: int) -> torch.Tensor:
    """Near-isometric: random permutations scaled by [0.999, 1], so that a lost carry shows."""
    order = torch.rand(batch, length, blocks, m).argsort(-1)
    scale = 0.999 + 0.001 * torch.rand(batch, length, blocks, m, 1, dtype=torch.float64)
    return torch.nn.functional.one_hot(order, m).double() * scale


def make_plain(blocks: int, m: int):
    def build(batch: int, length: int) -> dict[str, torch.Tensor]:
        x = torch.randn(batch, length, blocks, m, dtype=torch.float64)
        return {"a": matrices(batch, length, blocks, m), "x": x}

    return build


def make_gated(blocks: int, m: int):
    def build(batch: int, length: int) -> dict[str, torch.Tensor]:
        # Half of the rows near a permutation with a little of the input gate, half anything.
        sharp = torch.cat([matrices(batch, length, blocks, m) * 8, torch.ones(batch, length, blocks, m, 1)], -1)
        logits = torch.where(torch.rand(batch, 1, blocks, 1, 1) < 0.5, sharp.double(), torch.randn(sharp.shape))
        return {"logits": logits.double(), "v": torch.randn(batch, length, blocks, m, dtype=torch.float64)}

    return build


def plain_case(n: int, m: int) -> OpCase:
    return OpCase(f"m={m}", block_scan, reference.block_scan, make_plain(n, m), (n, m), custom_op="block_scan")


def gated_case(n: int, m: int) -> OpCase:
    make = make_gated(n, m)
    return OpCase(f"m={m}", gated_block_scan, reference.gated_block_scan, make, (n, m), custom_op="block_scan")


class TestBlockScan(KernelContract):
    cases = [plain_case(n, m) for n, m in ((3, 1), (5, 2), (2, 5), (1, 20))]


class TestGatedBlockScan(KernelContract):
    cases = [gated_case(n, m) for n, m in ((3, 1), (5, 2), (9, 4), (2, 5))]


# Products of gates that mix round 1.4 times (m = 2) to 1.7 times (m = 4) as much in a tree as one by one, in the mean
# over many sequences. The rule compares largest errors, so a state needs enough numbers to have a largest one.
class TestBlockScanTriton(TritonContract):
    cases = [plain_case(5, 2)]


class TestGatedBlockScanTriton(TritonContract):
    cases = [gated_case(9, 1), gated_case(5, 2), gated_case(8, 4)]


@pytest.mark.slow
class TestLargerBlocksTriton(TritonContract):
    """Every step of larger blocks is interpreted on its own, which takes long; `TestSizesTriton` is the short form."""

    cases = [plain_case(1, 5), gated_case(1, 5)]


class TestSizesTriton:
    """Padded sizes and those with tiles of their own: states, gradients, chunks and packing."""

    backend = "triton"

    @pytest.mark.sample
    @pytest.mark.parametrize("m", [3, 5, 8, 16, 33])
    @pytest.mark.parametrize("make", [plain_case, gated_case])
    def test_error_rule(self, make, m: int, monkeypatch: pytest.MonkeyPatch) -> None:
        case = make({3: 8, 5: 6}.get(m, 1), m)
        monkeypatch.setattr("seqmix.kernels._triton.FILL", 10**6)
        monkeypatch.setattr("seqmix.kernels._triton.SHORTEST_CHUNK", 6)
        compare(case, case.make(1, 13), case.state(1), torch.float32, backend="triton")
        inputs, state, cu_seqlens = case.packed([0, 0, 1, 9])
        compare(case, inputs, state, torch.float32, cu_seqlens=cu_seqlens, backend="triton")


def test_permutations_compose_exactly() -> None:
    """Saturated gates (logits of 200) are one-hot in float32: a thousand products leave no rounding at all."""
    order = torch.rand(4, 1000, 3, 5).argsort(-1)
    logits = torch.nn.functional.one_hot(torch.cat([order], -1), 6).float() * 200
    start = torch.randn(4, 3, 5)
    h, final = gated_block_scan(logits, torch.randn(4, 1000, 3, 5), initial_state=start)
    expected = start
    for t in range(1000):
        expected = expected.gather(-1, order[:, t])
    assert torch.equal(final, expected)
    assert torch.equal(h[:, -1], expected)


def test_gated_equals_softmax_then_block_scan() -> None:
    inputs = make_gated(4, 3)(2, 50)
    gates = inputs["logits"].softmax(-1)
    expected, _ = block_scan(gates[..., :-1], gates[..., -1] * inputs["v"])
    h, _ = gated_block_scan(**inputs)
    torch.testing.assert_close(h, expected, rtol=1e-13, atol=1e-13)


def test_large_and_small_logits() -> None:
    """Any shift of a row's logits leaves the result: nothing overflows at 1e4, nothing vanishes at -1e4."""
    logits, v = torch.randn(1, 20, 3, 2, 3), torch.randn(1, 20, 3, 2)
    h, _ = gated_block_scan(logits, v)
    for shift in (1e4, -1e4):
        shifted, _ = gated_block_scan(logits + shift, v)
        torch.testing.assert_close(shifted, h, rtol=5e-3, atol=5e-3)
