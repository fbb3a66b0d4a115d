"""Attention of the last T of M tokens over all of them, without a mask."""

import math

import pytest
import torch
from torch import Tensor

from seqmix.kernels import backend
from seqmix.mixers._lower_right import lower_right
from seqmix.mixers._softmax import softmax_attention


def rows(length: int, keys: int, dtype: torch.dtype) -> list[Tensor]:
    stream = torch.Generator().manual_seed(0)
    shapes = [(2, 3, n, 8) for n in (length, keys, keys)]
    return [torch.randn(shape, generator=stream).to(dtype).requires_grad_() for shape in shapes]


def by_mask(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    length, keys = q.shape[2], k.shape[2]
    mask = torch.ones(length, keys, dtype=torch.bool).tril(keys - length)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~mask, -math.inf)
    return scores.softmax(-1) @ v


@pytest.mark.parametrize(("dtype", "allowed"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize(("length", "keys"), [(1, 5), (7, 20), (63, 64), (300, 900)])
def test_as_with_a_mask(length: int, keys: int, dtype: torch.dtype, allowed: float) -> None:
    given = rows(length, keys, dtype)
    truth = [x.detach().double().requires_grad_() for x in given]
    found, expected = lower_right(*given), by_mask(*truth)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = torch.autograd.grad(found, given, upstream.to(dtype))
    for ours, theirs in zip(
        (found, *gradients), (expected, *torch.autograd.grad(expected, truth, upstream)), strict=True
    ):
        assert ours.dtype == dtype
        assert float((ours.detach().double() - theirs.detach()).abs().max() / theirs.detach().abs().max()) < allowed


@pytest.mark.filterwarnings("ignore:There is a performance drop")  # of vmap, which torch's attention has no rule for
def test_no_mask_is_aligned_at_the_lower_right() -> None:
    for length, keys in ((1, 5), (4, 4), (4, 9)):
        given = [x.detach() for x in rows(length, keys, torch.float64)]
        expected = by_mask(*given)
        torch.testing.assert_close(softmax_attention(*given, None), expected)
        with backend("reference"):
            torch.testing.assert_close(softmax_attention(*given, None), expected)
        mapped = torch.func.vmap(lambda q, k, v: softmax_attention(q, k, v, None))(*(x[None] for x in given))
        torch.testing.assert_close(mapped[0], expected)


def test_second_derivatives_are_refused() -> None:
    q, k, v = rows(4, 9, torch.float64)
    (gradient,) = torch.autograd.grad(softmax_attention(q, k, v, None).sum(), q, create_graph=True)
    with pytest.raises((NotImplementedError, RuntimeError)):
        gradient.sum().backward()
