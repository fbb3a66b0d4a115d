"""The Kronecker mixing of the released code: Q = I - K with K = strength * L_1^T (x) L_2, factors not symmetric.

    G_i = R_i R_i^T with R_i = triu(silu(.))          (n_i, n_i), with n_1 n_2 = width, the two nearest factors
    U_i = G_i, its rows divided by their lengths, and with `spectral` by its largest eigenvalue
    L_i = sigmoid(.) * U_i                            a gate for each row

Released code (dr-faustus/fp-rnn, models/mixer.py, `KroneckerProduct`) and this, line by line:

- silu, triangle, product, rows, gates from the left, and the transposed first factor: the same.
- the eigenvalue: with `spectral`, as its FP-RNN has it and its FP-Mamba has not, the code takes 16 steps of a power
  iteration and adds 1e-5; here it is exact, with the same 1e-5.
- the strength: 2 in the code, an argument here; it bounds the norm of K only where the factors are nearly symmetric.
- order of the numbers: triangle, gates, triangle, gates here; both triangles from one projection, gates from another in
  the code. Weight normalisation of those projections: in the code, a reparametrisation.

The paper's factors are symmetric (`kronecker`).
"""

import torch
from torch import Tensor
from torch.nn.functional import silu

from seqmix.kernels.fixed_point.kronecker import Kronecker, KroneckerFactors, largest_eigenvalue, triangle
from seqmix.kernels.fixed_point.low_rank import silu_grad

_EPS = 1e-5


class _Saved:
    """One factor L, from `part` (..., n (n + 1) / 2 + n), and what its derivative needs."""

    def __init__(self, part: Tensor, n: int, spectral: bool) -> None:
        self.where = triangle(n, part.device)
        raw = part.new_zeros(*part.shape[:-1], n * n)
        raw[..., self.where] = part[..., : n * (n + 1) // 2]
        self.raw = raw.unflatten(-1, (n, n))
        self.root = silu(self.raw)
        gram = self.root @ self.root.mT
        length = gram.norm(dim=-1, keepdim=True)
        self.long = length > _EPS
        self.length = length.clamp_min(_EPS)
        self.gate = part[..., n * (n + 1) // 2 :].sigmoid().unsqueeze(-1)
        self.unit = gram / self.length
        self.top = torch.ones_like(self.length[..., :1, :])
        self.left = self.right = torch.zeros_like(self.length)
        if spectral:
            # U is similar to a symmetric matrix, whose eigenvector is in the middle of its left and right ones.
            half = self.length.rsqrt()
            top, vector = largest_eigenvalue(half * gram * half.mT)
            self.top, self.left, self.right = top + _EPS, vector / half, vector * half
        self.value = self.gate * self.unit / self.top

    def vjp(self, dvalue: Tensor) -> Tensor:
        """The gradient in `part` from that of L."""
        dgate = (dvalue * self.unit / self.top).sum(-1) * (self.gate * (1 - self.gate)).squeeze(-1)
        dscaled = self.gate * dvalue
        dtop = -(dscaled * self.unit).sum((-2, -1), keepdim=True) / self.top.square()
        dunit = dscaled / self.top + dtop * self.left * self.right.mT
        along = torch.where(self.long, (self.unit * dunit).sum(-1, keepdim=True), 0)
        dgram = (dunit - self.unit * along) / self.length
        draw = ((dgram + dgram.mT) @ self.root) * silu_grad(self.raw)
        return torch.cat((draw.flatten(-2)[..., self.where], dgate), -1)


class ReleasedKronecker(Kronecker):
    """K = strength * L_1^T (x) L_2 for every token.

    Args:
        width: n_1 n_2.
        strength: of K; 2 in the released code.
        spectral: divide each factor by its largest eigenvalue.

    Source: dr-faustus/fp-rnn, models/mixer.py.
    """

    in_triton = False

    def __init__(self, width: int, strength: float, spectral: bool) -> None:
        super().__init__(width, strength)
        self.spectral = spectral

    def factors(self, pre: Tensor) -> KroneckerFactors:
        """strength * L_1^T and L_2 from `size` numbers a token, pre (..., size)."""
        first, second = self._of(pre)
        return KroneckerFactors(self.strength * first.value.mT, second.value)

    def _of(self, pre: Tensor) -> list[_Saved]:
        return [_Saved(part, n, self.spectral) for n, part in zip(self.sides, self.parts(pre), strict=True)]

    def apply_transposed(self, f: KroneckerFactors, v: Tensor) -> Tensor:
        """K^T v."""
        return self.apply(KroneckerFactors(f.k1.mT, f.k2.mT), v)

    def vjp(self, pre: Tensor, f: KroneckerFactors, w: Tensor, e: Tensor) -> Tensor:
        """The gradient of w^T K e in `pre`."""
        w, e = w.unflatten(-1, self.sides), e.unflatten(-1, self.sides)
        first, second = self._of(pre)
        dfirst = self.strength * (e @ f.k2.mT @ w.mT)
        return torch.cat((first.vjp(dfirst), second.vjp(w.mT @ f.k1 @ e)), -1)
