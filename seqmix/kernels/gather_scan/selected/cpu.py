"""What a token selects, and the gradient in its place, on a CPU: calls of the kernels."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from seqmix.kernels._sequences import array, rows
from seqmix.kernels._threads import run
from seqmix.kernels.gather_scan.selected import cpu_kernels as kernels


def _whole(rows: Tensor) -> Tensor:
    """Rows (L, ...) and rows of zeros up to a multiple of `TOGETHER`."""
    return pad(rows, (0, 0) * (rows.ndim - 1) + (0, -len(rows) % kernels.TOGETHER))


def _items(dictionary: Tensor) -> int:
    """Vectors of columns."""
    return -(-dictionary.shape[-1] // kernels.vector(dictionary.new_empty(1).numpy()))


def select(weights: Tensor, dictionary: Tensor) -> Tensor:
    """index (B, T, N), int32, for weights (B, T, K) and dictionary (K, N, N); of equal ones the first."""
    index = torch.empty(*weights.shape[:2], dictionary.shape[-1], dtype=torch.int32)
    given = array(_whole(weights.flatten(0, 1))), array(dictionary)
    work = weights.shape[:2].numel() * dictionary.numel()
    run(kernels.select, _items(dictionary), work, *given, index.flatten(0, 1).numpy())
    return index


def straight_through(weights: Tensor, dictionary: Tensor, index: Tensor, s: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of weights (B, T, K) and dictionary (K, N, N) where dP_t = Re(s_t u_t^H), s and u (B, T, N)."""
    items, states = _items(dictionary), dictionary.shape[-1]
    s, u = (torch.stack((x.real, x.imag) if x.is_complex() else (x, 0 * x), -2).flatten(0, 1) for x in (s, u))
    wide = pad(u, (0, items * kernels.vector(u.numpy()) - states))
    given = [array(_whole(x)) for x in (weights.flatten(0, 1), s, wide)]
    dweights = weights.new_empty(items, len(given[0]), dictionary.shape[0])
    ddictionary = torch.empty_like(dictionary, memory_format=torch.contiguous_format)
    run(
        kernels.straight_through, items, 4 * weights.shape[:2].numel() * dictionary.numel(),
        given[0], array(dictionary), rows(index), *given[1:], dweights.numpy(), ddictionary.numpy(),
    )  # fmt: skip
    return dweights.sum(0)[: weights.shape[:2].numel()].view(weights.shape), ddictionary
