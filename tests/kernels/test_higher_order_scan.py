"""`higher_order_scan` and its gated form keep the kernel contract and equal the companion recurrence."""

import pytest
import torch

from seqmix.kernels import block_scan, diagonal_scan, gated_higher_order_scan, higher_order_scan
from seqmix.kernels.higher_order_scan import reference
from tests.kernels.harness import KernelContract, OpCase, TritonContract, compare


def make_plain(channels: int, m: int):
    def build(batch: int, length: int) -> dict[str, torch.Tensor]:
        # Near-isometric: one lag with weight in [0.999, 1] and a random sign, so that a lost carry shows.
        lag = torch.nn.functional.one_hot(torch.randint(0, m, (batch, length, channels)), m).double()
        sign = torch.randint(0, 2, (batch, length, channels, 1)).mul(2).sub(1)
        scale = 0.999 + 0.001 * torch.rand(batch, length, channels, 1, dtype=torch.float64)
        return {"a": lag * sign * scale, "x": torch.randn(batch, length, channels, dtype=torch.float64)}

    return build


def make_gated(channels: int, m: int):
    def build(batch: int, length: int) -> dict[str, torch.Tensor]:
        logits = torch.randn(batch, length, channels, m + 1, dtype=torch.float64)
        logits[..., 0 : m : max(1, m - 1)] += 6  # most of the weight on the newest and the oldest lag
        return {"logits": logits, "v": torch.randn(batch, length, channels, dtype=torch.float64)}

    return build


class TestHigherOrderScan(KernelContract):
    cases = [
        OpCase(
            f"m={m}",
            higher_order_scan,
            reference.higher_order_scan,
            make_plain(n, m),
            (n, m),
            custom_op="higher_order_scan",
        )
        for n, m in ((3, 1), (5, 2), (2, 4), (2, 18))
    ]


class TestGatedHigherOrderScan(KernelContract):
    cases = [
        OpCase(
            f"m={m}",
            gated_higher_order_scan,
            reference.gated_higher_order_scan,
            make_gated(n, m),
            (n, m),
            custom_op="higher_order_scan",
        )
        for n, m in ((3, 1), (5, 3), (2, 4))
    ]


@pytest.mark.slow
class TestHigherOrderScanTriton(TritonContract):
    """Like its gated form, which the default tests run, without the gates."""

    cases = TestHigherOrderScan.cases[1:2]


class TestGatedHigherOrderScanTriton(TritonContract):
    cases = TestGatedHigherOrderScan.cases[1:2]


class TestOrdersTriton:
    """Orders that the contract leaves out, in chunks where those exist."""

    backend = "triton"

    @pytest.mark.parametrize("index", [0, 2, 3])
    def test_error_rule(self, index: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("seqmix.kernels._triton.FILL", 10**6)
        monkeypatch.setattr("seqmix.kernels._triton.SHORTEST_CHUNK", 6)
        case = TestHigherOrderScan.cases[index]
        compare(case, case.make(1, 21), case.state(1), torch.float32, backend="triton")
        inputs, state, cu_seqlens = case.packed([0, 0, 1, 9])
        compare(case, inputs, state, torch.float32, cu_seqlens=cu_seqlens, backend="triton")


def test_equals_the_companion_matrix() -> None:
    """Lags as a vector, the coefficients as its first row, ones below the diagonal, input into the first slot."""
    inputs = make_plain(3, 4)(2, 30)
    a, x = inputs["a"], inputs["x"]
    start = torch.randn(2, 3, 4, dtype=torch.float64)
    companion = torch.zeros(2, 30, 3, 4, 4, dtype=torch.float64)
    companion[..., 0, :] = a
    companion[..., 1:, :-1] = torch.eye(3, dtype=torch.float64)
    into_first = torch.nn.functional.pad(x.unsqueeze(-1), (0, 3))
    expected, expected_final = block_scan(companion, into_first, initial_state=start)
    h, final = higher_order_scan(a, x, initial_state=start)
    torch.testing.assert_close(h, expected[..., 0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(final, expected_final, rtol=1e-12, atol=1e-12)


def test_order_one_is_the_diagonal_scan() -> None:
    inputs = make_plain(5, 1)(2, 40)
    expected, _ = diagonal_scan(inputs["a"].squeeze(-1), inputs["x"])
    h, _ = higher_order_scan(**inputs)
    torch.testing.assert_close(h, expected, rtol=1e-13, atol=1e-13)


def test_fewer_steps_than_lags() -> None:
    """After one step of order three the state is the new value and the two newest old ones."""
    start = torch.tensor([[[1.0, 2.0, 3.0]]])
    a = torch.tensor([[[[0.0, 0.0, 1.0]]]])
    h, final = higher_order_scan(a, torch.full((1, 1, 1), 0.5), initial_state=start)
    assert h.item() == 3.5
    assert final.flatten().tolist() == [3.5, 1.0, 2.0]
