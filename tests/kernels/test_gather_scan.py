"""`gather_scan` keeps the kernel contract, is the matrix recurrence that it stands for, and composes functions."""

import pytest
import torch

from seqmix.kernels import block_scan, diagonal_scan, gather_scan
from seqmix.kernels.gather_scan.reference import gather_scan as reference
from tests.kernels.harness import KernelContract, OpCase, TritonContract

N = 6


def make(kind: str):
    def build(batch: int, length: int) -> dict[str, torch.Tensor]:
        shape = (batch, length, N)
        # Near-isometric: magnitudes in [0.999, 1] and for the most part permutations, so that a lost carry shows.
        magnitude, index = 0.999 + 0.001 * torch.rand(shape).double(), torch.rand(shape).argsort(-1)
        index[:, ::5] = torch.randint(N, index[:, ::5].shape)
        if kind == "real":
            d = magnitude * torch.randint(0, 2, shape).mul(2).sub(1)
        else:
            d = torch.polar(magnitude, 6.28 * torch.rand(shape).double())
        x = torch.randn(shape, dtype=torch.complex128 if kind == "complex" else torch.float64)
        return {"d": d, "x": x, "index": index}

    return build


def case(kind: str) -> OpCase:
    complex_state = kind != "real"
    return OpCase(
        kind,
        gather_scan,
        reference,
        make(kind),
        (N,),
        complex_state=complex_state,
        custom_op="gather_scan",
        low_precision=not complex_state,
    )


class TestGatherScan(KernelContract):
    cases = [case("real"), case("complex"), case("mixed")]


class TestGatherScanTriton(TritonContract):
    cases = [case("complex")]
    # The interpreter takes seconds for a loop over time; what these find is in the public function.
    test_no_state_is_a_zero_state = None  # type: ignore[assignment]
    test_packed_equals_one_by_one = None  # type: ignore[assignment]
    test_second_derivatives_and_forward_mode_raise_by_name = None  # type: ignore[assignment]


@pytest.mark.slow
class TestRealGatherScanTriton(TestGatherScanTriton):
    cases = [case("real")]


def test_published_example() -> None:
    """Words compose from left to right: columns are one-hot, not rows."""
    index = torch.tensor([[[1, 1, 2], [0, 2, 0], [2, 0, 0]]])
    d = torch.tensor([[[1j, 0.5, 1], [1, -1, 0.5], [0.5j, 1, 1]]], dtype=torch.complex128)
    h, final = gather_scan(index, d, 0 * d, initial_state=torch.eye(3, dtype=torch.complex128)[:1])
    torch.testing.assert_close(final, torch.tensor([[-1j, 0, 0]], dtype=torch.complex128), rtol=0, atol=0)
    assert torch.equal(h[:, -1], final)


def test_is_the_recurrence_of_its_matrices() -> None:
    """The dense scan has the same outputs, and gradients of d through the entries of its matrices."""
    torch.manual_seed(0)
    inputs = make("real")(2, 12)
    index, d, x = inputs["index"], inputs["d"].requires_grad_(), inputs["x"]
    places = torch.nn.functional.one_hot(index, N).mT.double()  # (B, T, N, N): row index[j] of column j
    h, _ = gather_scan(index, d, x)
    expected = block_scan((places * d.unsqueeze(-2)).unsqueeze(2), x.unsqueeze(2))[0].squeeze(2)
    torch.testing.assert_close(h, expected, rtol=1e-12, atol=1e-12)
    upstream = torch.randn_like(h)
    found, wanted = (torch.autograd.grad(y, d, upstream)[0] for y in (h, expected))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_states_that_stay_are_a_diagonal_scan() -> None:
    inputs = make("complex")(2, 20)
    stay = torch.arange(N).expand(2, 20, N)
    torch.testing.assert_close(gather_scan(stay, inputs["d"], inputs["x"]), diagonal_scan(inputs["d"], inputs["x"]))


@pytest.mark.parametrize("backend", ["reference", "cpu"])
@pytest.mark.parametrize(("value", "named"), [(-1, "-1"), (N, "6")])
def test_places_that_are_none_are_named(backend: str, value: int, named: str) -> None:
    inputs = make("real")(2, 4)
    inputs["index"][1, 2, 3] = value
    with pytest.raises(ValueError, match=rf"index must be in \[0, N = 6\), got {named}"):
        gather_scan(**inputs, backend=backend)


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"index": torch.zeros(2, 4, N)}, "index must be an int32 or int64"),
        ({"index": torch.zeros(2, 4, 3, dtype=torch.int64)}, "index must have shape"),
        ({"d": torch.zeros(2, 4, 3)}, "d must have shape"),
        ({"x": torch.zeros(2, 4, 0)}, "at least one state"),
    ],
)
def test_bad_input(changed: dict[str, torch.Tensor], match: str) -> None:
    inputs = {name: x.float() if name != "index" else x for name, x in make("real")(2, 4).items()}
    with pytest.raises(ValueError, match=match):
        gather_scan(**(inputs | changed))
