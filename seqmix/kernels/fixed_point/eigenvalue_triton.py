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
def dot(b_a, b_b):
    return tl.dot(b_a, b_b, input_precision="ieee", out_dtype=b_a.dtype)  # (B1, B3)


@triton.jit
def top_of(b_gram, B: tl.constexpr, SQUARINGS: tl.constexpr):
    """The largest eigenvalue of a positive matrix, and its eigenvector."""
    o_i = tl.arange(0, B)
    diagonal = o_i[:, None] == o_i[None, :]
    b_power = b_gram
    for _ in range(0, SQUARINGS + 1):
        trace = tl.sum(tl.sum(tl.where(diagonal, b_power, 0.0), 1), 0)
        b_power /= tl.maximum(trace, 1e-30)
        b_power = dot(b_power, b_power)  # (B, B)
    weights = tl.sum(tl.where(diagonal, b_power, 0.0), 1)
    weights = tl.where(weights == weights, weights, 0.0)  # with a NaN no column is better than another
    chosen = tl.min(tl.where(weights == tl.max(weights, 0), o_i, B), 0)
    b_vector = tl.sum(tl.where(o_i[None, :] == chosen, b_power, 0.0), 1)
    b_vector *= tl.rsqrt(tl.maximum(tl.sum(b_vector * b_vector, 0), 1e-30))
    return tl.sum(b_vector * tl.sum(b_gram * b_vector[None, :], 1), 0), b_vector


@triton.jit
def square(p_x, i_t, n, B: tl.constexpr):
    """Matrix t of (L, n, n)."""
    o_i = tl.arange(0, B)
    mask = (o_i < n)[:, None] & (o_i < n)[None, :]
    return tl.load(p_x + i_t * n * n + o_i[:, None] * n + o_i[None, :], mask=mask, other=0.0)  # (B, B)


@triton.jit
def _tops(p_gram, p_tops, p_vectors, n, B: tl.constexpr, SQUARINGS: tl.constexpr):
    i_t = tl.program_id(0).to(tl.int64)
    o_i = tl.arange(0, B)
    b_top, b_vector = top_of(square(p_gram, i_t, n, B), B, SQUARINGS)  # (B, B)
    tl.store(p_tops + i_t, b_top)
    tl.store(p_vectors + i_t * n + o_i, b_vector, mask=o_i < n)


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
