"""Places that a token selects, and the gradient in their place, are those of the formulas."""

import numpy as np
import pytest
import torch
from torch import Tensor

from seqmix.kernels.gather_scan.selected import api, cpu, cpu_kernels, selected_gather_scan
from tests.kernels.checked_lanes import checked, in_python
from tests.kernels.harness import assert_rule

# Around vectors of 4 to 32 columns, and tokens that are not a multiple of those taken together.
SIZES = pytest.mark.parametrize(("tokens", "N", "K"), [(1, 1, 1), (5, 7, 3), (4, 16, 2), (6, 17, 8), (9, 33, 1)])


def make(tokens: int, N: int, K: int) -> tuple[Tensor, ...]:
    """Weights, the dictionary, and s and u, complex; double."""
    torch.manual_seed(tokens * N)
    s, u = torch.randn(2, 1, tokens, N, dtype=torch.complex128)
    return torch.randn(1, tokens, K).double().softmax(-1), 2 * torch.randn(K, N, N).double(), s, u


def single(*given: Tensor) -> tuple[Tensor, ...]:
    return tuple(x.to(torch.complex64 if x.is_complex() else torch.float32) for x in given)


@SIZES
def test_selects_the_largest_of_each_column(tokens: int, N: int, K: int) -> None:
    weights, dictionary, *_ = make(tokens, N, K)
    expected = torch.einsum("btk,kij->btij", weights, dictionary).argmax(-2)
    for given in ((weights, dictionary), single(weights, dictionary)):
        assert torch.equal(cpu.select(*given).long(), expected)


def test_of_equal_ones_the_first() -> None:
    dictionary = torch.tensor([[[0.0, 1, 2], [5, 1, 2], [5, 1, 3]]])
    assert cpu.select(torch.ones(1, 1, 1), dictionary).tolist() == [[[1, 0, 2]]]


@SIZES
def test_gradient_is_that_of_the_softmax(tokens: int, N: int, K: int) -> None:
    weights, dictionary, s, u = make(tokens, N, K)
    leaves = weights.requires_grad_(), dictionary.requires_grad_()
    P = torch.einsum("btk,kij->btij", *leaves).softmax(-2)
    expected = torch.autograd.grad(P, leaves, (s.unsqueeze(-1) * u.conj().unsqueeze(-2)).real)
    given = weights.detach(), dictionary.detach(), cpu.select(weights.detach(), dictionary.detach()), s, u
    for function in (cpu.straight_through, api._straight_through):
        for found, wanted in zip(function(*given), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    names = ("weights", "dictionary")
    low = [w.float() for w in given[:2]], given[2], single(s, u)
    found, reference = (
        dict(zip(names, function(*low[0], low[1], *low[2]), strict=True))
        for function in (cpu.straight_through, api._straight_through)
    )
    assert_rule(found, reference, dict(zip(names, expected, strict=True)), torch.float32)


def test_entries_of_any_size() -> None:
    """Neither they nor the rows and columns that fill up vectors overflow."""
    weights, dictionary, s, u = single(*make(5, 33, 3))
    given = weights, 1e3 * dictionary, cpu.select(weights, dictionary), s, u
    for found, wanted in zip(cpu.straight_through(*given), api._straight_through(*given), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("complex_ones", [True, False])
def test_is_the_reference_with_hard_places_and_soft_gradients(complex_ones: bool) -> None:
    weights, dictionary, d, x = make(11, 9, 4)
    d = d / d.abs()
    given = [weights, dictionary, d, x] if complex_ones else [weights, dictionary, d.real, x.real]
    cu_seqlens = torch.tensor([0, 4, 4, 11], dtype=torch.int32)
    initial = torch.randn(3, 9, dtype=given[-1].dtype)
    leaves = [t.detach().requires_grad_() for t in (*given, initial)]
    found = []
    for backend in ("cpu", "reference"):
        options = {"initial_state": leaves[-1], "cu_seqlens": cu_seqlens, "backend": backend}
        h, final = selected_gather_scan(*leaves[:-1], **options)
        loss = h.abs().square().sum() + final.real.sum()
        found.append((h, final, *torch.autograd.grad(loss, leaves)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def test_elsewhere_tokens_are_treated_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, dictionary, s, u = make(9, 5, 3)
    found = []
    for entries in (1 << 20, 60):
        monkeypatch.setattr(api, "_AT_ONCE", entries)
        index = api.select(weights, dictionary)
        found.append((index, *api._straight_through(weights, dictionary, index, s, u)))
    torch.testing.assert_close(*found, rtol=1e-10, atol=1e-12)


def test_masks_stay_in_their_columns() -> None:
    """Not even where tokens are filled up to those that are taken together."""
    weights, dictionary, s, u = single(*make(5, 7, 3))
    dictionary[:, 2, 1] = -torch.inf
    index = cpu.select(weights, dictionary)
    assert torch.equal(index.long(), api.select(weights, dictionary))
    found = cpu.straight_through(weights, dictionary, index, s, u)[1]
    torch.testing.assert_close(found, api._straight_through(weights, dictionary, index, s, u)[1])
    assert found.isfinite().all()


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"weights": torch.ones(2, 4, 3)}, r"dictionary must have shape .*\(3, 5, 5\)"),
        ({"weights": torch.ones(2, 3, 2)}, "weights must have shape"),
        ({"dictionary": torch.ones(2, 3, 3)}, "dictionary must have shape"),
        ({"dictionary": torch.ones(2, 5, 5).double()}, "must have the precision of x"),
        ({"d": torch.ones(2, 4, 3)}, "d must have shape"),
        ({"weights": torch.ones(2, 4, 0), "dictionary": torch.ones(0, 5, 5)}, "at least one state and one matrix"),
    ],
)
def test_bad_input(changed: dict[str, Tensor], match: str) -> None:
    given = {"weights": torch.ones(2, 4, 2), "dictionary": torch.ones(2, 5, 5)}
    given |= {"d": torch.ones(2, 4, 5), "x": torch.ones(2, 4, 5)}
    with pytest.raises(ValueError, match=match):
        selected_gather_scan(**given | changed)


@pytest.mark.parametrize("K", [1, 3])
def test_same_bits_alone_and_on_two_threads(K: int) -> None:
    """Of a token, and of the dictionary, whatever stands beside it."""
    weights, dictionary, s, u = single(*make(301, 130, K))
    index = cpu.select(weights, dictionary)
    dweights, ddictionary = cpu.straight_through(weights, dictionary, index, s, u)
    for t in (0, 2, 300):
        one = slice(t, t + 1)
        assert torch.equal(cpu.select(weights[:, one], dictionary), index[:, one])
        alone = cpu.straight_through(weights[:, one], dictionary, index[:, one], s[:, one], u[:, one])
        assert torch.equal(alone[0], dweights[:, one])
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        again = cpu.straight_through(weights, dictionary, cpu.select(weights, dictionary), s, u)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(again[0], dweights) and torch.equal(again[1], ddictionary)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("register", [32, 64])
def test_indices_are_inside(register: int, dtype: type) -> None:
    """Compiled code checks none of them."""
    run, whole = in_python(cpu_kernels, register), cpu._whole
    for tokens, N, K in ((1, 1, 1), (5, 3, 2), (4, 9, 1), (3, 17, 1)):
        weights, dictionary, s, u = make(tokens, N, K)
        index = cpu.select(weights, dictionary)
        expected = cpu.straight_through(weights, dictionary, index, s, u)
        wide = 2 * register // np.dtype(dtype).itemsize
        items = -(-N // wide)
        array = lambda x: checked(x.numpy().astype(dtype))  # noqa: E731
        rows, matrices = array(whole(weights[0])), array(dictionary)
        left, right = (torch.stack((x.real, x.imag), -2)[0] for x in (s, u))
        right = torch.nn.functional.pad(right, (0, items * wide - N))
        places = checked(np.full((tokens, N), -1, np.int32))
        run("select")(0, items, rows, matrices, places)
        np.testing.assert_array_equal(np.asarray(places), index[0].numpy())
        dweights, ddictionary = (
            checked(np.full(shape, np.nan, dtype)) for shape in ((items, *rows.shape), matrices.shape)
        )
        others = array(whole(left)), array(whole(right))
        run("straight_through")(0, items, rows, matrices, places, *others, dweights, ddictionary)
        for found, wanted in ((dweights.sum(0)[:tokens], expected[0][0]), (ddictionary, expected[1])):
            np.testing.assert_allclose(
                np.asarray(found), wanted.numpy(), rtol=0, atol=1e-4 if dtype is np.float32 else 1e-10
            )
