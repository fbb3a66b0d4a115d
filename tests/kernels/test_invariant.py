"""Rows of products, and functions of single numbers, whose bits do not depend on what stands beside them."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from seqmix.kernels import _row_blocks
from seqmix.kernels._row_blocks import SIZES, row_product
from tests.kernels.harness import assert_rule
from tests.kernels.invariant import invariant


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("transposed", [False, True], ids=["plain", "transposed"])
@pytest.mark.parametrize(("K", "N"), [(256, 256), (688, 64), (64, 1), (33, 7), (1, 5)])
def test_a_row_has_the_same_bits_everywhere(K: int, N: int, transposed: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(2 * SIZES[0] + 77, K).to(dtype), torch.randn(*((N, K) if transposed else (K, N))).to(dtype)
    weight = weight.mT if transposed else weight
    with invariant():
        y = row_product(x, weight)
        for first, last in ((0, 1), (5, 6), (588, 589), (7, 25), (100, 401), (1, 589)):
            assert torch.equal(row_product(x[first:last], weight), y[first:last])
    torch.testing.assert_close(y, x @ weight, rtol=0, atol=64 * torch.finfo(dtype).eps * K**0.5)


def test_error_and_gradients() -> None:
    torch.manual_seed(1)
    drawn, found = (torch.randn(3, 50, 30), torch.randn(30, 20)), []
    for product, dtype in ((row_product, torch.float32), (torch.matmul, torch.float32), (torch.matmul, torch.float64)):
        x, w = (t.to(dtype).requires_grad_() for t in drawn)
        y = product(x, w)
        gradients = torch.autograd.grad(y.sin().sum(), (x, w), create_graph=True)
        (second,) = torch.autograd.grad(gradients[0].sum(), w)
        found.append({"y": y, "x": gradients[0], "w": gradients[1], "second": second})
    assert_rule(*found, torch.float32)


@pytest.mark.parametrize(
    "function",
    [
        torch.sigmoid,
        torch.Tensor.sigmoid,
        functional.silu,
        functional.gelu,
        functional.softplus,
        functional.elu,
        functional.logsigmoid,
        torch.tanh,
        torch.exp,
        lambda x: x.abs() ** 1.5,
        lambda x: functional.glu(x, -1),
        nn.LayerNorm(6),
        nn.RMSNorm(6),
        nn.Linear(6, 3),
        nn.Softmax(-1),
    ],
    ids=lambda f: getattr(f, "__name__", type(f).__name__),
)
def test_functions_have_no_tail(function) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(2)
    x = torch.randn(300, 18)[:, 6:12]
    with torch.no_grad(), invariant():
        y = function(x)
        for first, last in ((0, 1), (3, 4), (299, 300), (17, 90)):
            assert torch.equal(function(x[first:last]), y[first:last])
            assert torch.equal(function(x[first:last].clone()), y[first:last])


def test_einsum_maps_tokens() -> None:
    torch.manual_seed(3)
    x, w = torch.randn(5, 9, 4, 16), torch.randn(2, 4, 16, 3)
    with invariant():
        y = torch.einsum("bthi,ghij->gbthj", x, w)
        one = torch.einsum("bthi,ghij->gbthj", x[:1, :1], w)
    assert torch.equal(one, y[:, :1, :1])
    torch.testing.assert_close(y, torch.einsum("bthi,ghij->gbthj", x, w))


def test_autocast_and_nesting() -> None:
    layer, x = nn.Linear(8, 4), torch.randn(2, 8)
    with invariant(), invariant(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16
    assert torch._C._len_torch_function_stack() == 0


def test_no_size_that_agrees_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_row_blocks, "_moved", lambda *_: None)
    with pytest.raises(NotImplementedError, match="no block of rows has it here for 977 x 3"):
        row_product(torch.randn(2, 977), torch.randn(977, 3))


def test_elsewhere_is_refused() -> None:
    with invariant(), pytest.raises(NotImplementedError, match="batch_invariant: products on a CPU"):
        nn.Linear(4, 4, device="meta")(torch.empty(2, 4, device="meta"))
