"""What a token selects, and the gradient in its place, on a CPU: calls of the kernels."""

from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import pad

from seqmix.kernels._sequences import array, rows
from seqmix.kernels._threads import run
from seqmix.kernels.gather_scan.selected import cpu_kernels as kernels


def _whole(x: Tensor) -> Tensor:
    """Rows (L, ...) and rows of zeros up to a multiple of `TOGETHER`."""
    return pad(x, (0, 0) * (x.ndim - 1) + (0, -len(x) % kernels.TOGETHER))


def _weights(weights: Tensor) -> Tensor:
    """Weights (L, K) up to such a multiple, the last again, since zeros would make NaN of an infinite entry."""
    rows = weights.flatten(0, 1)
    return torch.cat([rows, rows[-1:].expand(-len(rows) % kernels.TOGETHER, -1)])


def _items(dictionary: Tensor) -> tuple[int, int]:
    """Vectors of columns, and columns in all of them."""
    width = kernels.vector(dictionary.new_empty(1).numpy())
    items = -(-dictionary.shape[-1] // width)
    return items, items * width


def select(weights: Tensor, dictionary: Tensor) -> Tensor:
    """index (B, T, N), int32, for weights (B, T, K) and dictionary (K, N, N); of equal ones the first. NaN is never
    larger."""
    index = torch.empty(*weights.shape[:2], dictionary.shape[-1], dtype=torch.int32)
    given = array(_weights(weights)), array(dictionary)
    work = weights.shape[:2].numel() * dictionary.numel()
    run(kernels.select, _items(dictionary)[0], work, *given, index.flatten(0, 1).numpy())
    return index


def straight_through(weights: Tensor, dictionary: Tensor, index: Tensor, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weights (B, T, K) and dictionary (K, N, N) where dP_t = Re(s_t u_t^H), s and u (B, T, N)."""
    items, columns = _items(dictionary)
    s, u = (
        torch.stack((x.real, x.imag) if x.is_complex() else (x, torch.zeros_like(x)), -2).flatten(0, 1) for x in (s, u)
    )
    wide = pad(u, (0, columns - dictionary.shape[-1]))
    given = [array(x) for x in (_weights(weights), _whole(s), _whole(wide))]
    dweights = weights.new_empty(items, len(given[0]), dictionary.shape[0])
    ddictionary = torch.empty_like(dictionary, memory_format=torch.contiguous_format)
    run(
        kernels.straight_through, items, 4 * weights.shape[:2].numel() * dictionary.numel(),
        given[0], array(dictionary), rows(index), *given[1:], dweights.numpy(), ddictionary.numpy(),
    )  # fmt: skip
    # In their order; torch's own depends on how many there are.
    return reduce(torch.add, dweights)[: weights.shape[:2].numel()].view(weights.shape), ddictionary
