"""Mixing by a Kronecker product: Q = I - K with K = strength * K_1 (x) K_2, each factor symmetric and positive.

    R_i = sigmoid(.) * normalise_rows(triu(.))        (n_i, n_i), with n_1 n_2 = width, the two nearest factors
    K_i = R_i R_i^T / max(1, its largest eigenvalue)

Paper and this: symmetric positive factors from a triangular one, divided by their largest eigenvalue, so that the norm
of K is at most the strength. Here a factor that is small already stays small, the eigenvalue is exact (in the paper by
power iteration), and rows of the triangle are normalised and gated, which the paper does not say. The released code has
another factor, not symmetric: `kronecker_released`.
"""

import importlib.util
import math
from typing import NamedTuple

import torch
from torch import Tensor

from seqmix.kernels._backend import preferred
from seqmix.kernels.fixed_point.low_rank import Linear

_EPS = 1e-6
_HAS_TRITON = importlib.util.find_spec("triton") is not None


class KroneckerFactors(NamedTuple):
    k1: Tensor  # (..., n1, n1), the strength included
    k2: Tensor  # (..., n2, n2)


class _Saved(NamedTuple):
    """What one factor K_i is made of, for its derivative."""

    rows: Tensor  # (n, n), unit rows
    inverse: Tensor  # (n, 1), one over the length of each row
    gate: Tensor  # (n, 1)
    gram: Tensor  # R R^T
    top: Tensor  # its largest eigenvalue, at least one
    vector: Tensor  # the eigenvector, or zeros where the eigenvalue is below one


class Kronecker:
    """K = strength * K_1 (x) K_2 for every token. All that does not say so holds for factors that are not symmetric.

    Args:
        width: n_1 n_2.
        strength: bound on the norm of K.

    Source: Movahedi et al. 2025 (2503.10799), section 3 and appendix.
    """

    in_triton = True

    def __init__(self, width: int, strength: float) -> None:
        n1 = next(n for n in range(math.isqrt(width), 0, -1) if width % n == 0)
        self.width, self.strength, self.sides = width, strength, (n1, width // n1)
        self.size = sum(n * (n + 1) // 2 + n for n in self.sides)

    def factors(self, pre: Tensor) -> KroneckerFactors:
        """The factors from `size` numbers a token, pre (..., size)."""
        k1, k2 = (saved.gram / saved.top for saved in self._saved(pre))
        return KroneckerFactors(self.strength * k1, k2)

    def parts(self, pre: Tensor) -> tuple[Tensor, ...]:
        """The numbers of each factor: its triangle, then its gates."""
        return pre.split([n * (n + 1) // 2 + n for n in self.sides], -1)

    def _saved(self, pre: Tensor) -> list[_Saved]:
        saved = []
        for n, part in zip(self.sides, self.parts(pre), strict=True):
            raw = part.new_zeros(*part.shape[:-1], n * n)
            raw[..., triangle(n, part.device)] = part[..., : n * (n + 1) // 2]
            raw = raw.unflatten(-1, (n, n))
            inverse = (raw.square().sum(-1, keepdim=True) + _EPS).rsqrt()
            gate = part[..., n * (n + 1) // 2 :].sigmoid().unsqueeze(-1)
            r = gate * raw * inverse
            gram = r @ r.mT
            top, vector = largest_eigenvalue(gram)
            saved.append(_Saved(raw * inverse, inverse, gate, gram, top.clamp_min(1), torch.where(top > 1, vector, 0)))
        return saved

    def tops(self, pre: Tensor) -> list[tuple[Tensor, Tensor]]:
        """What each factor is divided by (...) and the eigenvector (..., n), zeros where nothing is above one."""
        return [(saved.top[..., 0, 0], saved.vector[..., 0]) for saved in self._saved(pre)]

    def apply(self, f: KroneckerFactors, v: Tensor) -> Tensor:
        """K v for v (..., width)."""
        return (f.k1 @ v.unflatten(-1, self.sides) @ f.k2.mT).flatten(-2)

    def apply_transposed(self, f: KroneckerFactors, v: Tensor) -> Tensor:
        """K^T v; this K is symmetric."""
        return self.apply(f, v)

    def solve(self, f: KroneckerFactors, b: Linear, y: Tensor) -> Tensor:
        """(I - B K)^-1 y by elimination, O(width^3); `b` maps (..., k, width), k vectors at once."""
        k = self.dense(f)
        return torch.linalg.solve_ex(_eye(k) - b(k.mT).mT, y)[0]  # rows of b(K^T) are columns of B K

    def solve_transposed(self, f: KroneckerFactors, b: Linear, y: Tensor) -> Tensor:
        """(I - K^T B)^-1 y."""
        k = self.dense(f)
        return torch.linalg.solve_ex(_eye(k) - k.mT @ b(_eye(k).expand_as(k)).mT, y)[0]

    def vjp(self, pre: Tensor, f: KroneckerFactors, w: Tensor, e: Tensor) -> Tensor:
        """The gradient of w^T K e in `pre`."""
        w, e = w.unflatten(-1, self.sides), e.unflatten(-1, self.sides)
        dk1, dk2 = self.strength * (w @ f.k2 @ e.mT), w.mT @ f.k1 @ e
        parts = []
        for n, saved, dk in zip(self.sides, self._saved(pre), (dk1, dk2), strict=True):
            dtop = -(dk * saved.gram).sum((-2, -1), keepdim=True) / saved.top.square()
            dgram = dk / saved.top + dtop * saved.vector @ saved.vector.mT
            r = saved.gate * saved.rows
            dr = (dgram + dgram.mT) @ r
            dgate = (dr * saved.rows).sum(-1) * (saved.gate * (1 - saved.gate)).squeeze(-1)
            drows = saved.gate * dr
            draw = saved.inverse * (drows - saved.rows * (saved.rows * drows).sum(-1, keepdim=True))
            parts += [draw.flatten(-2)[..., triangle(n, pre.device)], dgate]
        return torch.cat(parts, -1)

    def as_product(self, f: KroneckerFactors) -> tuple[Tensor, Tensor]:
        """I and K: there is no lower rank."""
        k = self.dense(f)
        return _eye(k).expand_as(k), k

    def dense(self, f: KroneckerFactors) -> Tensor:
        """K (..., width, width)."""
        product = f.k1[..., :, None, :, None] * f.k2[..., None, :, None, :]
        return product.flatten(-2).flatten(-3, -2)

    def radius(self, f: KroneckerFactors, b: Linear) -> Tensor:
        """The spectral radius of B K, (...)."""
        return torch.linalg.eigvals(b(self.dense(f).mT)).abs().amax(-1)


def largest_eigenvalue(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The largest eigenvalue (..., 1, 1) of a positive matrix (..., n, n) and its vector (..., n, 1)."""
    if gram.is_cuda and _HAS_TRITON and preferred() != "reference":
        # `eigh` asks the GPU whether it succeeded, which waits for it and cannot be part of a CUDA graph.
        from seqmix.kernels.fixed_point.eigenvalue_triton import top_eigenvalue

        top, vector = top_eigenvalue(gram)
        return top[..., None, None], vector.unsqueeze(-1)
    # NaN and infinity, which eigh refuses, pass through the division by one.
    finite = gram.isfinite().all(-1).all(-1)[..., None, None]
    values, vectors = torch.linalg.eigh(torch.where(finite, gram, 0))
    return values[..., -1, None, None], vectors[..., -1:]


def _eye(k: Tensor) -> Tensor:
    return torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)


def triangle(n: int, device: torch.device) -> Tensor:
    """Flat positions of the upper triangle of an n x n matrix."""
    row, column = torch.triu_indices(n, n, device=device)
    return row * n + column
