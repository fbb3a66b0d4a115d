"""Products x W whose rows have the same bits however many come at once.

A BLAS chooses its kernel by shape, and with it the order in which it sums. So rows are taken in blocks of a few sizes
that were found to agree: the first product with a weight of some shape runs rows through blocks of every size, in order
and moved by some places, and keeps the sizes whose rows come out with the same bits wherever they stand. Orders of sums
do not depend on numbers, so what holds for those rows holds: random ones, and others whose sums are zero but for
rounding, which shows in any type. Which sizes agree differs between machines, types, and numbers of threads; the most
usual is 16 rows and more. Rows and weights begin where memory is aligned, as they do there.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["row_product"]

SIZES = (256, 128, 64, 32, 16, 8, 4, 2)
# A step of one sequence fills its block with zeros: the smallest block is at most this, where that can be had.
SMALL = 16
_ALIGNED = 64  # bytes, as torch aligns what it allocates
_MOVES = (1, 3, 7)


def row_product(x: Tensor, weight: Tensor) -> Tensor:
    """x W (..., N) for x (..., K) and W (K, N) on a CPU, of one type; gradients of x are such products.

    Raises:
        NotImplementedError: another device, a graph, a processor on which no size of blocks has the property.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return _RowProduct.apply(x, weight)
    return _product(x, weight)


class _RowProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> Any:
        x, weight = ctx.saved_tensors
        dx = row_product(dy, weight.mT) if ctx.needs_input_grad[0] else None
        dweight = x.flatten(0, -2).mT @ dy.flatten(0, -2) if ctx.needs_input_grad[1] else None
        return dx, dweight


def _product(x: Tensor, weight: Tensor) -> Tensor:
    if torch.compiler.is_compiling() or x.device.type != "cpu":
        raise NotImplementedError("batch_invariant: products on a CPU, outside of torch.compile, have its property")
    K, N = weight.shape
    if N == 1:  # or it would be a product with a vector, whose order depends on where that lies in memory
        return _product(x, torch.cat((weight, weight), 1))[..., :1]
    rows, weight = _aligned(x.reshape(-1, K).contiguous()), _aligned(weight)
    y, first, count = rows.new_empty(len(rows), N), 0, len(rows)
    sizes = _sizes(K, N, weight.stride(0) == 1, x.dtype, torch.get_num_threads())
    for size in sizes:
        while first + size <= count:
            torch.mm(rows[first : first + size], weight, out=y[first : first + size])
            first += size
    if first < count:
        block = rows.new_zeros(sizes[-1], K)
        block[: count - first] = rows[first:]
        y[first:] = torch.mm(block, weight)[: count - first]
    return y.view(*x.shape[:-1], N)


def _aligned(x: Tensor) -> Tensor:
    return x.clone() if x.data_ptr() % _ALIGNED else x


@cache
def _sizes(K: int, N: int, transposed: bool, dtype: torch.dtype, threads: int) -> tuple[int, ...]:
    """Sizes of blocks that agree, falling."""
    probes = [(x, w.mT.contiguous().mT if transposed else w) for x, w in _probes(K, N, dtype)]
    found = {size: _moved(probes, size) for size in SIZES}
    ladders = []
    for top, rows in found.items():
        if rows is not None:
            same = [s for s, r in found.items() if s <= top and r is not None and torch.equal(r, rows)]
            ladders.append(tuple(same))
    if not ladders:
        raise NotImplementedError(f"batch_invariant: no block of rows has it here for {K} x {N} in {dtype}")
    return max(ladders, key=lambda sizes: (-max(sizes[-1], SMALL), sizes[0]))


def _probes(K: int, N: int, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
    """Rows and weights: random, and so that each term of a sum stands there twice, with one sign and the other."""
    generator, probes = torch.Generator().manual_seed(0), []
    for cancel in (False, False, False, True):
        x, weight = (torch.randn(*shape, generator=generator).to(dtype) for shape in ((SIZES[0], K), (K, N)))
        if cancel and K > 1:
            one, other, left = torch.randperm(K, generator=generator).split((K // 2, K // 2, K % 2))
            x[:, other], weight[other], weight[left] = x[:, one], -weight[one], 0
        probes.append((x, weight))
    return probes


def _moved(probes: list[tuple[Tensor, Tensor]], size: int) -> Tensor | None:
    """x W of every probe in blocks of `size` rows, (SMALL, N) side by side, None if a row that moves has other bits."""
    found = []
    for rows, weight in probes:
        x = rows[: max(size, SMALL)]
        y = _in_blocks(x, weight, size)
        if any(not torch.equal(_in_blocks(x.roll(by, 0), weight, size), y.roll(by, 0)) for by in _MOVES):
            return None
        found.append(y[:SMALL])
    return torch.cat(found, 1)


def _in_blocks(x: Tensor, weight: Tensor, size: int) -> Tensor:
    y = x.new_empty(len(x), weight.shape[1])
    for first in range(0, len(x), size):
        torch.mm(x[first : first + size], weight, out=y[first : first + size])
    return y
