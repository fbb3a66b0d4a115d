"""The fixed-point Mamba over whole sequences in plain torch: sweeps, one token after the other, and their adjoints.

Where `compiled` says so, Numba kernels (`cpu`, `cpu_backward`) go one token after the other instead.

All take rows (L, ...) of S sequences. The adjoint zeta_t is the whole gradient that reaches y_t. With
o'_t = norm'^T zeta_t, the states' gradient S_t = o'_t c_t^T + decay_{t+1} S_{t+1} and x'_t = D o'_t + dt_t S_t b_t,

    zeta_t = dy_t + K_t^T x'_t + (what reaches y_t through the gates of token t + 1)
"""

import importlib.util
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from seqmix.kernels import diagonal_scan, selective_scan
from seqmix.kernels.fixed_point.low_rank import LowRank
from seqmix.kernels.fixed_point.problem import Stop
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.selective_scan.cell import Cell, Gates, Normed, norm
from seqmix.kernels.fixed_point.selective_scan.tokens import Gradients, Inputs, Known, Recurrence
from seqmix.kernels.fixed_point.sweeps import by_parts, residual

if TYPE_CHECKING:
    from seqmix.kernels.fixed_point.selective_scan.cpu_backward import ExactGradients
    from seqmix.kernels.fixed_point.selective_scan.triton import Sweeps
    from seqmix.kernels.fixed_point.selective_scan.triton_adjoint import AdjointSweeps

_HAS_TRITON = importlib.util.find_spec("triton") is not None
_HAS_NUMBA = importlib.util.find_spec("numba") is not None
_LARGEST_RANK = 2  # for which the first pole has a closed form


def compiled(cell: Cell, device: torch.device) -> bool:
    """Whether there is a kernel that solves such tokens one after the other."""
    mixing = cell.mixing
    return _HAS_NUMBA and device.type == "cpu" and isinstance(mixing, LowRank) and 0 < mixing.rank <= _LARGEST_RANK


class Forward:
    """y^l = norm(selective_scan(u + K (y^{l-1} - u))), gates from y^{l-1} of the token before."""

    def __init__(self, cell: Cell, inputs: Inputs, s0: Tensor, y0: Tensor, rows: Rows, stop: Stop) -> None:
        self.cell, self.inputs, self.s0, self.y0, self.rows, self.stop = cell, inputs, s0, y0, rows, stop
        self.steps = torch.zeros(rows.sequences, dtype=torch.long, device=s0.device)
        self.fused: Sweeps | None = None

    def fuse(self) -> "Sweeps":
        """The sweeps in Triton."""
        from seqmix.kernels.fixed_point.selective_scan.triton import Sweeps

        if self.fused is None:
            self.fused = Sweeps(self.cell, self.inputs, self.s0, self.y0, self.rows)
        return self.fused

    def measured_sweep(self, y: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        if self.fused is not None or (y.is_cuda and _HAS_TRITON and self.cell.mixing.in_triton):
            return self.fuse()(y, busy, damping)
        return by_parts(self, y, busy, damping)

    def gates(self, y: Tensor) -> Gates:
        return self.cell.gates(self.inputs.p, self.inputs.weight, self.rows.previous(y, self.y0))

    def scan(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """o (L, D) and the final states (S, D, N) for inputs mixed with y."""
        g, i = self.gates(y), self.inputs
        x, dt, b, c = (t.unsqueeze(0) for t in (self.cell.mixed(g, i.u, y), i.dt, g.b, g.c))
        bounds = self.rows.cu_seqlens
        o, final = selective_scan(x, dt, i.A, b, c, i.D, initial_state=self.s0, cu_seqlens=bounds)
        return o.squeeze(0), final

    def sweep(self, y: Tensor) -> Tensor:
        return norm(self.scan(y)[0], self.inputs.norm).y

    def select(self, ids: Tensor) -> "Forward":
        where, rows = self.rows.select(ids)
        return Forward(self.cell, self.inputs.at(where), self.s0[ids], self.y0[ids], rows, self.stop)

    def radius(self, y: Tensor) -> Tensor:
        finite = y.isfinite().all(-1, keepdim=True)
        y = torch.where(finite, y, 0)
        g, i = self.gates(y), self.inputs
        radius = self.cell.radius(g, norm(self.scan(y)[0], i.norm), self.cell.gain(g, i.dt, i.D))
        return torch.where(finite.squeeze(-1), radius, torch.inf)

    def astray(self, y: Tensor) -> Tensor:
        g, i = self.gates(y), self.inputs
        return self.cell.beyond_pole(g, norm(self.scan(y)[0], i.norm), self.cell.gain(g, i.dt, i.D))

    def one_by_one(self) -> Tensor:
        """Each token iterated to its own fixed point; `steps` keeps the most that a token took."""
        return self.solve_one_by_one()[0]

    def solve_one_by_one(self) -> tuple[Tensor, Tensor, Tensor]:
        """The same, with the final states (S, D, N) and the residuals (S,)."""
        if compiled(self.cell, self.s0.device):
            from seqmix.kernels.fixed_point.selective_scan import cpu

            y, final, self.steps, left = cpu.forward(self.recurrence(), self.stop.tolerance, self.stop.cap or 1000)
            return y, final, left
        y, state, before = torch.empty_like(self.inputs.u), self.s0.clone(), self.y0.clone()
        for alive, token in self.rows.walk():
            y_t, state[alive], steps = self._token(self.inputs.at(token), state[alive], before[alive])
            y[token] = before[alive] = y_t
            self.steps[alive] = torch.maximum(self.steps[alive], steps)
        return y, state, residual(self, y)

    def recurrence(self) -> Recurrence:
        """The same for a compiled pass over time."""
        m = self.cell.mixing
        assert isinstance(m, LowRank)
        constants = (self.cell.where, m.rank, m.strength, m.product)
        return Recurrence(self.inputs, self.s0, self.y0, self.rows.bounds, *constants)

    def _token(self, i: Inputs, s: Tensor, before: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """y_t, s_t and the steps taken."""
        g = self.cell.gates(i.p, i.weight, before)
        kept = (i.dt.unsqueeze(-1) * i.A).exp() * s
        offset, gain = (kept * g.c.unsqueeze(-2)).sum(-1), self.cell.gain(g, i.dt, i.D)
        # Less the bias of the norm, y is the solution without one of what remains.
        scale, bias = i.norm[0], i.norm[1].expand_as(i.u)
        y, steps = self.cell.solve(g, offset + gain * self.cell.mixed(g, i.u, bias), gain, scale, self.stop)
        y = y + bias
        written = i.dt * self.cell.mixed(g, i.u, y)
        return y, kept + written.unsqueeze(-1) * g.b.unsqueeze(-2), steps


class Adjoint:
    """Sweeps of zeta for given y, cotangents dy (L, D) and those of the final states, ds (S, D, N).

    The cotangent of the last y of a sequence, which is part of its state, belongs into dy.
    """

    def __init__(self, forward: Forward, y: Tensor, dy: Tensor, ds: Tensor) -> None:
        self.forward, self.rows, self.cell = forward, forward.rows, forward.cell
        self.y, self.dy, self.ds = y, dy, ds
        i = forward.inputs
        self.before = self.rows.previous(y, forward.y0)
        self.gates = forward.gates(y)
        self.x = self.cell.mixed(self.gates, i.u, y)
        self.fused: AdjointSweeps | None = None
        self.normed: Normed
        if y.is_cuda and _HAS_TRITON and self.cell.mixing.in_triton:
            self.normed = self.fuse().normed
        else:
            o = (self.states * self.gates.c.unsqueeze(-2)).sum(-1) + i.D * self.x
            self.normed = norm(o, i.norm)
        self.gain = self.cell.gain(self.gates, i.dt, i.D)

    def fuse(self) -> "AdjointSweeps":
        """The sweeps, and the gradients at their end, in Triton: no states (L, D, N) are kept."""
        from seqmix.kernels.fixed_point.selective_scan.triton_adjoint import AdjointSweeps

        if self.fused is None:
            self.fused = AdjointSweeps(self.forward.fuse(), self.gates, self.x, self.y, self.dy, self.ds)
        return self.fused

    def measured_sweep(self, y: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        return by_parts(self, y, busy, damping) if self.fused is None else self.fused(y, busy, damping)

    @cached_property
    def decay(self) -> Tensor:
        """(L, D, N)."""
        i = self.forward.inputs
        return (i.dt.unsqueeze(-1) * i.A).exp()

    @cached_property
    def states(self) -> Tensor:
        """s_t (L, D, N)."""
        written = (self.forward.inputs.dt * self.x).unsqueeze(-1) * self.gates.b.unsqueeze(-2)
        states, _ = diagonal_scan(
            self.decay.flatten(1).unsqueeze(0),
            written.flatten(1).unsqueeze(0),
            initial_state=self.forward.s0.flatten(1),
            cu_seqlens=self.rows.cu_seqlens,
        )
        return states.squeeze(0).view_as(written)

    def states_back(self, do: Tensor) -> Tensor:
        """S_t = o'_t c_t^T + decay_{t+1} S_{t+1} (L, D, N)."""
        source = self.rows.add_at_end(do.unsqueeze(-1) * self.gates.c.unsqueeze(-2), self.ds)
        following = self.rows.following(self.decay)
        bounds = (self.rows.bounds[-1] - self.rows.bounds).flip(0).int()
        back, _ = diagonal_scan(
            following.flip(0).flatten(1).unsqueeze(0), source.flip(0).flatten(1).unsqueeze(0), cu_seqlens=bounds
        )
        return back.squeeze(0).flip(0).view_as(source)

    def dx(self, do: Tensor, back: Tensor) -> Tensor:
        i = self.forward.inputs
        return i.D * do + i.dt * (back * self.gates.b.unsqueeze(-2)).sum(-1)

    def dpre(self, do: Tensor, back: Tensor, dx: Tensor, at: Tensor | slice = slice(None)) -> Tensor:
        """The gradient in p of the tokens `at`, all arguments being theirs."""
        i = self.forward.inputs
        db = (back * (i.dt[at] * self.x[at]).unsqueeze(-1)).sum(-2)
        dc = (do.unsqueeze(-1) * self.states[at]).sum(-2)
        return self.cell.vjp(_at(self.gates, at), db, dc, dx, self.y[at] - i.u[at])

    def through_gates(self, dpre: Tensor) -> Any:
        """What dpre sends to y of the token before, or 0 where its gates do not see it."""
        return self.cell.recurrent_rows(dpre) @ self.forward.inputs.weight if self.cell.spans else 0

    def sweep(self, y: Tensor) -> Tensor:
        do = self.normed.back(y)
        back = self.states_back(do)
        dx = self.dx(do, back)
        new = self.dy + self.cell.mixed_back(self.gates, dx)
        if self.cell.spans:
            new = new + self.rows.following(self.through_gates(self.dpre(do, back, dx)))
        return new

    def gradients(self, zeta: Tensor) -> Gradients:
        """Those of all inputs and parameters but W, from zeta, the whole gradient that reaches y."""
        if self.fused is not None:
            return self.fused.gradients(zeta)
        i, do = self.forward.inputs, self.normed.back(zeta)
        back = self.states_back(do)
        dx = self.dx(do, back)
        drate = back * self.decay * self.rows.previous(self.states, self.forward.s0)  # of dt A
        return Gradients(
            u=dx - self.cell.mixed_back(self.gates, dx),
            dt=(drate * i.A).sum(-1) + self.x * (back * self.gates.b.unsqueeze(-2)).sum(-1),
            p=self.dpre(do, back, dx),
            A=(drate * i.dt.unsqueeze(-1)).sum(0),
            D=(do * self.x).sum(0),
            norm=torch.stack(((zeta * self.normed.unit).sum(0), zeta.sum(0))),
            s0=self.rows.start(self.decay * back, self.ds),
        )

    def select(self, ids: Tensor) -> "Adjoint":
        where, _ = self.rows.select(ids)
        return Adjoint(self.forward.select(ids), self.y[where], self.dy[where], self.ds[ids])

    def radius(self, y: Tensor) -> Tensor:
        return self.forward.radius(self.y)

    def astray(self, y: Tensor) -> None:
        return None

    def compiled_backward(self, dlast: Tensor) -> "ExactGradients":
        """All gradients in one pass from the last token to the first, with dlast (S, D) for the last y."""
        from seqmix.kernels.fixed_point.selective_scan.cpu_backward import backward

        g, n = self.gates, self.normed
        tokens = (self.y, self.x, g.pre, g.b, g.c, *g.factors, self.states, self.decay, n.unit, n.inverse, self.gain)
        return backward(self.forward.recurrence(), Known(*tokens), self.dy, self.ds, dlast)

    def one_by_one(self) -> Tensor:
        """The exact answer, from the last token to the first."""
        if compiled(self.cell, self.y.device):
            return self.compiled_backward(torch.zeros_like(self.forward.y0)).zeta
        i, cell = self.forward.inputs, self.cell
        zeta, states, carry = torch.empty_like(self.y), self.ds.clone(), torch.zeros_like(self.forward.y0)
        for alive, token in self.rows.walk(backward=True):
            g, later = _at(self.gates, token), states[alive]
            normed = Normed(self.normed.unit[token], self.normed.inverse[token], i.norm)
            dt, b = i.dt[token], g.b.unsqueeze(-2)
            known = self.dy[token] + carry[alive] + cell.mixed_back(g, dt * (later * b).sum(-1))
            zeta[token] = z = cell.adjoint(g, normed, self.gain[token], known)
            do = normed.back(z)
            later = later + do.unsqueeze(-1) * g.c.unsqueeze(-2)
            if cell.spans:
                dx = i.D * do + dt * (later * b).sum(-1)
                carry[alive] = self.through_gates(self.dpre(do, later, dx, token))
            states[alive] = self.decay[token] * later
        return zeta


def _at(g: Gates, at: Tensor | slice) -> Gates:
    factors = type(g.factors)(*(f[at] for f in g.factors))
    return Gates(g.pre[at], g.b[at], g.c[at], factors)
