"""The largest eigenvalue of positive matrices in Triton, a program for every matrix, which lies in registers.

It comes from G squared over and over, which nothing on the host has to wait for: after p squarings the Rayleigh
quotient of a column is off by at most 2^-(p + 2) of it, however close the next eigenvalue. Products are `tl.dot`, which
wants 16 of everything; matrices are padded with zeros.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import launch


@triton.jit
def dot(a, b):
    return tl.dot(a, b, input_precision="ieee", out_dtype=a.dtype)


@triton.jit
def top_of(gram, B: tl.constexpr, SQUARINGS: tl.constexpr):
    """The largest eigenvalue of a positive matrix, and its eigenvector."""
    i = tl.arange(0, B)
    diagonal = i[:, None] == i[None, :]
    power = gram
    for _ in range(0, SQUARINGS + 1):
        trace = tl.sum(tl.sum(tl.where(diagonal, power, 0.0), 1), 0)
        power /= tl.maximum(trace, 1e-30)
        power = dot(power, power)
    weights = tl.sum(tl.where(diagonal, power, 0.0), 1)
    weights = tl.where(weights == weights, weights, 0.0)  # with a NaN no column is better than another
    chosen = tl.min(tl.where(weights == tl.max(weights, 0), i, B), 0)
    vector = tl.sum(tl.where(i[None, :] == chosen, power, 0.0), 1)
    vector *= tl.rsqrt(tl.maximum(tl.sum(vector * vector, 0), 1e-30))
    return tl.sum(vector * tl.sum(gram * vector[None, :], 1), 0), vector


@triton.jit
def square(pointer, t, n, B: tl.constexpr):
    """Matrix t of (L, n, n)."""
    i = tl.arange(0, B)
    mask = (i < n)[:, None] & (i < n)[None, :]
    return tl.load(pointer + t * n * n + i[:, None] * n + i[None, :], mask=mask, other=0.0)


@triton.jit
def _tops(gram, tops, vectors, n, B: tl.constexpr, SQUARINGS: tl.constexpr):
    t = tl.program_id(0).to(tl.int64)
    i = tl.arange(0, B)
    top, vector = top_of(square(gram, t, n, B), B, SQUARINGS)
    tl.store(tops + t, top)
    tl.store(vectors + t * n + i, vector, mask=i < n)


def side(n: int) -> int:
    return max(16, triton.next_power_of_2(n))


def squarings(x: Tensor) -> int:
    return 52 if x.dtype == torch.float64 else 23


def top_eigenvalue(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalues (...) of positive matrices (..., n, n), and their eigenvectors (..., n)."""
    n, flat = gram.shape[-1], gram.contiguous().view(-1, *gram.shape[-2:])
    tops, vectors = gram.new_empty(len(flat)), gram.new_empty(len(flat), n)
    warps = 4 if n <= 32 else 8
    launch(_tops, len(flat), flat, tops, vectors, n, B=side(n), SQUARINGS=squarings(gram), num_warps=warps)
    return tops.view(gram.shape[:-2]), vectors.view(gram.shape[:-1])
