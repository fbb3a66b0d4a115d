"""Mixing matrices of low rank: Q = I - K with K = U^T S U, a product of r Householder factors or their sum (DPLR).

    u_i = normalise(silu(.)),  alpha_i = strength * sigmoid(.)            i = 1..r, from r (width + 1) numbers
    householder:  Q = (I - alpha_1 u_1 u_1^T) ... (I - alpha_r u_r u_r^T)     S^-1 = diag(1/alpha) + striu(U U^T)
    dplr:         Q = I - sum_i alpha_i u_i u_i^T                             S^-1 = diag(1/alpha)

S is the triangular factor of the compact WY form, so both are one formula; nothing divides by alpha.

Paper, released code (dr-faustus/fp-rnn, models/mixer.py) and this: u is silu of a projection, normalised, in all (the
code divides by max(|u|, 1e-5), this by sqrt(|u|^2 + 1e-6)); alpha is sigmoid(.) in the paper, twice that in the code,
which are strengths 1 and 2; the code applies u_1 of a product first, here u_r is applied first: rows in other order.

Methods take any leading axes: one token of every sequence, or all tokens at once.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

_EPS = 1e-6
_SMALL = 8  # largest system that a GPU eliminates in a few launches of its own

Linear = Callable[[Tensor], Tensor]  # a linear map of vectors (..., k, width)


class LowRankFactors(NamedTuple):
    u: Tensor  # (..., r, width), rows of unit length
    alpha: Tensor  # (..., r)
    upper: Tensor  # (..., r, r), striu(U U^T), or zeros for a sum


def silu_grad(x: Tensor) -> Tensor:
    """The derivative of silu."""
    gate = x.sigmoid()
    return gate * (1 + x * (1 - gate))


class LowRank:
    """K of rank r for every token.

    Args:
        width: size of Q.
        rank: r; 0 for K = 0.
        strength: largest alpha; 2 is a reflection.
        product: a product of Householder factors, else their sum.

    Source: Movahedi et al. 2025 (2503.10799), section 3; compact WY form: Schreiber and Van Loan 1989.
    """

    in_triton = True

    def __init__(self, width: int, rank: int, strength: float, product: bool) -> None:
        self.width, self.rank, self.strength, self.product = width, rank, strength, product
        self.size = rank * (width + 1)  # numbers that make one K

    def factors(self, pre: Tensor) -> LowRankFactors:
        """The factors from `size` numbers a token, pre (..., size)."""
        raw = silu(pre[..., : self.rank * self.width]).unflatten(-1, (self.rank, self.width))
        u = raw * (raw.square().sum(-1, keepdim=True) + _EPS).rsqrt()
        gram = u @ u.mT
        upper = gram.triu(1) if self.product else torch.zeros_like(gram)
        return LowRankFactors(u, self.strength * pre[..., self.rank * self.width :].sigmoid(), upper)

    def coefficients(self, f: LowRankFactors, v: Tensor) -> Tensor:
        """S U v (..., r), by back substitution."""
        c = _rows(f.u, v)
        omega: list[Tensor] = []
        for i in reversed(range(self.rank)):
            later = sum(f.upper[..., i, i + 1 + j] * w for j, w in enumerate(omega))
            omega.insert(0, f.alpha[..., i] * (c[..., i] - later))
        return torch.stack(omega, -1) if omega else c

    def transposed_coefficients(self, f: LowRankFactors, v: Tensor) -> Tensor:
        """S^T U v (..., r), by forward substitution."""
        c = _rows(f.u, v)
        eta: list[Tensor] = []
        for i in range(self.rank):
            eta.append(f.alpha[..., i] * (c[..., i] - sum(f.upper[..., j, i] * w for j, w in enumerate(eta))))
        return torch.stack(eta, -1) if eta else c

    def apply(self, f: LowRankFactors, v: Tensor) -> Tensor:
        """K v for v (..., width)."""
        return _combine(f.u, self.coefficients(f, v))

    def apply_transposed(self, f: LowRankFactors, v: Tensor) -> Tensor:
        """K^T v."""
        return _combine(f.u, self.transposed_coefficients(f, v))

    def gain(self, f: LowRankFactors, gram: Tensor) -> Tensor:
        """E (..., r, r) with (I - B K)^-1 = I + B U^T E U, where gram = U B U^T (Woodbury)."""
        return solve_small(self._core(f, gram), torch.diag_embed(f.alpha))

    def _core(self, f: LowRankFactors, gram: Tensor) -> Tensor:
        eye = torch.eye(self.rank, dtype=gram.dtype, device=gram.device)
        return eye + f.alpha.unsqueeze(-1) * (f.upper - gram)

    def solve(self, f: LowRankFactors, b: Linear, y: Tensor) -> Tensor:
        """(I - B K)^-1 y, one system of size r; `b` maps (..., k, width), k vectors at once."""
        columns = b(f.u)
        omega = solve_small(self._core(f, f.u @ columns.mT), (f.alpha * _rows(f.u, y)).unsqueeze(-1))
        return y + _combine(columns, omega.squeeze(-1))

    def solve_transposed(self, f: LowRankFactors, b: Linear, y: Tensor) -> Tensor:
        """(I - K^T B)^-1 y."""
        core = self._core(f._replace(upper=f.upper.mT), f.u @ b(f.u).mT)
        eta = solve_small(core, (f.alpha * _rows(f.u, b(y.unsqueeze(-2)).squeeze(-2))).unsqueeze(-1))
        return y + _combine(f.u, eta.squeeze(-1))

    def vjp(self, pre: Tensor, f: LowRankFactors, w: Tensor, e: Tensor) -> Tensor:
        """The gradient of w^T K e in `pre`."""
        omega, eta = self.coefficients(f, e), self.transposed_coefficients(f, w)
        du = omega.unsqueeze(-1) * w.unsqueeze(-2) + eta.unsqueeze(-1) * e.unsqueeze(-2)
        # d(a^T S c) = -eta^T d(S^-1) omega for fixed a = U w and c = U e.
        within = eta.unsqueeze(-1) * omega.unsqueeze(-2)
        dalpha = (_rows(f.u, w) - (f.upper.mT @ eta.unsqueeze(-1)).squeeze(-1)) * (
            _rows(f.u, e) - (f.upper @ omega.unsqueeze(-1)).squeeze(-1)
        )
        if self.product:
            within = within.triu(1)
            du = du - (within + within.mT) @ f.u
        x = pre[..., : self.rank * self.width].unflatten(-1, (self.rank, self.width))
        raw = silu(x)
        inverse = (raw.square().sum(-1, keepdim=True) + _EPS).rsqrt()
        draw = inverse * (du - f.u * (f.u * du).sum(-1, keepdim=True))
        gate = f.alpha / self.strength
        return torch.cat(((draw * silu_grad(x)).flatten(-2), dalpha * f.alpha * (1 - gate)), -1)

    def as_product(self, f: LowRankFactors) -> tuple[Tensor, Tensor]:
        """U (..., r, width) and S (..., r, r) with K = U^T S U."""
        return f.u, self.gain(f, torch.zeros_like(f.upper))

    def dense(self, f: LowRankFactors) -> Tensor:
        """K (..., width, width)."""
        eye = torch.eye(self.width, dtype=f.u.dtype, device=f.u.device)
        return self.apply(LowRankFactors(*(t.unsqueeze(f.alpha.ndim - 1) for t in f)), eye).mT

    def radius(self, f: LowRankFactors, b: Linear) -> Tensor:
        """The spectral radius of B K, (...)."""
        if not self.rank:
            return f.u.new_zeros(f.u.shape[:-2])
        gram = f.u @ b(f.u).mT
        return torch.linalg.eigvals(gram @ self.as_product(f)[1]).abs().amax(-1)


def solve_small(a: Tensor, b: Tensor) -> Tensor:
    """a^-1 b for systems a (..., r, r) and b (..., r, k)."""
    return eliminate(a, b) if a.is_cuda and a.shape[-1] <= _SMALL else torch.linalg.solve_ex(a, b)[0]


def eliminate(a: Tensor, b: Tensor) -> Tensor:
    """The same by Gauss-Jordan elimination with row exchanges, in operations that any CUDA graph holds.

    Which library solves a system on a GPU, and whether it can be captured, depends on sizes.
    """
    r = a.shape[-1]
    system, place = torch.cat((a, b), -1), torch.arange(r, device=a.device)
    for i in range(r):
        below = system[..., i].abs().masked_fill(place < i, -1)
        best = below.argmax(-1, keepdim=True)
        order = torch.where(place == i, best, torch.where(place == best, i, place))
        system = system.gather(-2, order.unsqueeze(-1).expand_as(system))
        row = system[..., i : i + 1, :] / system[..., i : i + 1, i : i + 1]
        system = torch.where((place == i).unsqueeze(-1), row, system - system[..., i : i + 1] * row)
    return system[..., r:]


def _rows(u: Tensor, v: Tensor) -> Tensor:
    return (u @ v.unsqueeze(-1)).squeeze(-1)


def _combine(u: Tensor, weights: Tensor) -> Tensor:
    return (weights.unsqueeze(-2) @ u).squeeze(-2)
