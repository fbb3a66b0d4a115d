"""The fixed-point RNN over whole sequences in plain torch: sweeps, one token after the other, and their adjoints.

All take rows (L, ...) of S sequences. With g_t the cotangent of h_t, the adjoint is the linear recurrence

    M_t^T v_t = g_t + lambda_{t+1} v_{t+1} + (what reaches h_t through the gates of token t + 1)

run backwards; its sweeps contract exactly where those of the forward pass do.
"""

import importlib.util
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqmix.kernels import diagonal_scan
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.scan.cell import Cell, Gates
from seqmix.kernels.fixed_point.sweeps import by_parts

if TYPE_CHECKING:
    from seqmix.kernels.fixed_point.scan.triton import Sweeps
    from seqmix.kernels.fixed_point.scan.triton_adjoint import AdjointSweeps

_HAS_TRITON = importlib.util.find_spec("triton") is not None


class Forward:
    """h^l = scan(lambda, (1 - lambda) (e + K (h^{l-1} - e))), gates from h^{l-1} of the token before."""

    def __init__(self, cell: Cell, p: Tensor, weight: Tensor, h0: Tensor, rows: Rows) -> None:
        self.cell, self.p, self.weight, self.h0, self.rows = cell, p, weight, h0, rows
        self.fused: Sweeps | None = None

    def fuse(self) -> "Sweeps":
        """The sweeps in Triton."""
        from seqmix.kernels.fixed_point.scan.triton import Sweeps

        if self.fused is None:
            self.fused = Sweeps(self.cell, self.p, self.weight, self.h0, self.rows)
        return self.fused

    def measured_sweep(self, y: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        if self.fused is not None or (y.is_cuda and _HAS_TRITON and self.cell.mixing.in_triton):
            return self.fuse()(y, busy, damping)
        return by_parts(self, y, busy, damping)

    @cached_property
    def fixed(self) -> Gates | None:
        """Without hidden dependence the gates are the same in every sweep."""
        return None if self.cell.spans else self.cell.gates(self.p, self.weight, self.p)

    def gates(self, h: Tensor) -> Gates:
        if self.fixed is not None:
            return self.fixed
        return self.cell.gates(self.p, self.weight, self.rows.previous(h, self.h0))

    def sweep(self, y: Tensor) -> Tensor:
        g = self.gates(y)
        x = g.write * self.cell.target(g, y)
        h, _ = diagonal_scan(
            g.decay.unsqueeze(0), x.unsqueeze(0), initial_state=self.h0, cu_seqlens=self.rows.cu_seqlens
        )
        return h.squeeze(0)

    def select(self, ids: Tensor) -> "Forward":
        where, rows = self.rows.select(ids)
        return Forward(self.cell, self.p[where], self.weight, self.h0[ids], rows)

    def radius(self, y: Tensor) -> Tensor:
        finite = y.isfinite().all(-1)
        g = self.gates(torch.where(finite.unsqueeze(-1), y, 0))
        return torch.where(finite, self.cell.radius(g), torch.inf)

    def astray(self, y: Tensor) -> None:
        return None

    def one_by_one(self) -> Tensor:
        """The exact answer, each token solved in closed form from the state before it."""
        h, state = torch.empty_like(self.p[:, : self.h0.shape[1]]), self.h0.clone()
        for alive, token in self.rows.walk():
            before = state[alive]
            g = self.cell.gates(self.p[token], self.weight, before)
            state[alive] = h[token] = self.cell.solve(g, before)
        return h


class Adjoint:
    """The sweeps of v for given h and cotangents g (L, N), those of the final states included."""

    def __init__(self, forward: Forward, h: Tensor, cotangent: Tensor) -> None:
        self.forward, self.rows, self.cell = forward, forward.rows, forward.cell
        self.h, self.cotangent = h, cotangent
        self.before = self.rows.previous(h, forward.h0)
        self.gates = forward.gates(h)
        self.fused: AdjointSweeps | None = None
        if h.is_cuda and _HAS_TRITON and self.cell.mixing.in_triton:
            self.fuse()

    def fuse(self) -> "AdjointSweeps":
        """The sweeps, and the gradients of the gates, in Triton."""
        from seqmix.kernels.fixed_point.scan.triton_adjoint import AdjointSweeps

        if self.fused is None:
            self.fused = AdjointSweeps(self.forward.fuse(), self.gates, self.h, self.cotangent)
        return self.fused

    def measured_sweep(self, y: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        return by_parts(self, y, busy, damping) if self.fused is None else self.fused(y, busy, damping)

    def vjp(self, v: Tensor) -> Tensor:
        """The gradient in p (L, M) from the solution v."""
        if self.fused is not None:
            return self.fused.vjp(v)
        return self.cell.vjp(self.gates, self.before, self.h, v)

    def through_gates(self, v: Tensor) -> Any:
        """What v sends to the state before its token through the gates, (L, N), or 0 where they do not see it."""
        if not self.cell.spans:
            return 0
        dpre = self.cell.vjp(self.gates, self.before, self.h, v)
        return self.cell.hidden_vjp(dpre, self.forward.weight, self.before)

    def scan(self, x: Tensor) -> Tensor:
        """v_t = lambda_{t+1} v_{t+1} + x_t."""
        decay = self.rows.following(self.gates.decay)
        bounds = (self.rows.bounds[-1] - self.rows.bounds).flip(0).int()
        v, _ = diagonal_scan(decay.flip(0).unsqueeze(0), x.flip(0).unsqueeze(0), cu_seqlens=bounds)
        return v.squeeze(0).flip(0)

    def sweep(self, y: Tensor) -> Tensor:
        x = self.cotangent + self.cell.mixed_back(self.gates, y)
        if self.cell.spans:
            x = x + self.rows.following(self.through_gates(y))
        return self.scan(x)

    def select(self, ids: Tensor) -> "Adjoint":
        where, _ = self.rows.select(ids)
        return Adjoint(self.forward.select(ids), self.h[where], self.cotangent[where])

    def radius(self, y: Tensor) -> Tensor:
        return self.forward.radius(self.h)

    def astray(self, y: Tensor) -> None:
        return None

    def one_by_one(self) -> Tensor:
        """The exact answer, from the last token to the first."""
        v, carry = torch.empty_like(self.h), torch.zeros_like(self.forward.h0)
        for alive, token in self.rows.walk(backward=True):
            g = _at(self.gates, token)
            v_t = self.cell.solve_transposed(g, self.cotangent[token] + carry[alive])
            v[token] = v_t
            back = g.decay * v_t
            if self.cell.spans:
                dpre = self.cell.vjp(g, self.before[token], self.h[token], v_t)
                back = back + self.cell.hidden_vjp(dpre, self.forward.weight, self.before[token])
            carry[alive] = back
        return v


def _at(g: Gates, token: Tensor) -> Gates:
    factors = type(g.factors)(*(f[token] for f in g.factors))
    return Gates(g.pre[token], g.decay[token], g.write[token], g.e[token], factors)
