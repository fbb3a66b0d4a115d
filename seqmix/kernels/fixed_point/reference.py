"""Both fixed points token by token in plain torch, which autograd and `torch.func` can follow to any order.

Exact whatever the solver: that of `seqmix.kernels.backend("reference")`. A phantom gradient is that of one application
at the fixed point, which is held constant.
"""

import torch
from torch import Tensor

from seqmix.kernels import diagonal_scan, selective_scan
from seqmix.kernels._sequences import over_sequences
from seqmix.kernels.fixed_point.problem import Stop
from seqmix.kernels.fixed_point.rows import previous_token
from seqmix.kernels.fixed_point.scan.cell import Cell as ScanCell
from seqmix.kernels.fixed_point.selective_scan.cell import Cell as SelectiveCell
from seqmix.kernels.fixed_point.selective_scan.cell import Gates, norm, slope_of
from seqmix.kernels.fixed_point.selective_scan.tokens import Inputs

# Newton steps from the solution: each doubles the order to which derivatives are exact, 1 and 3.
_STEPS = 2


def full_weight(cell: ScanCell | SelectiveCell, weight: Tensor) -> Tensor:
    """W^T with zeros for the parts that do not see the state (N, M); (0, M) if none does."""
    if not cell.spans:
        return weight.new_empty(0, cell.size)
    columns: list[Tensor] = []
    end = 0
    for span, part in zip(cell.spans, weight.mT.split([s.stop - s.start for s in cell.spans], -1), strict=True):
        columns += [weight.new_zeros(weight.shape[1], span.start - end), part]
        end = span.stop
    return torch.cat((*columns, weight.new_zeros(weight.shape[1], cell.size - end)), -1)


def fixed_point_scan(
    op: str,
    cell: ScanCell,
    p: Tensor,
    weight: Tensor,
    h0: Tensor,
    cu_seqlens: Tensor | None,
    *,
    phantom: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """h (B, T, N), the final states (S, N) and the report (S, 4) for p (B, T, M) and W^T (N, M), (0, M) for none."""

    def pre(p: Tensor, h: Tensor) -> Tensor:
        return p + cell.seen(h) @ weight if len(weight) else p

    def recurrence(p: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        states = []
        for p_t in p.unbind(1):
            h = cell.solve(cell.gates_of(pre(p_t, h)), h)
            states.append(h)
        return torch.stack(states, 1), h

    h, final = over_sequences(op, recurrence, (p,), h0, cu_seqlens)
    if phantom:
        h = h.detach()
        g = cell.gates_of(pre(p, previous_token(h, h0.detach(), cu_seqlens)))
        x = g.write * cell.target(g, h)
        h, final = diagonal_scan(g.decay, x, initial_state=h0, cu_seqlens=cu_seqlens)
    return h, final, _report(final)


def fixed_point_selective_scan(
    op: str,
    cell: SelectiveCell,
    inputs: Inputs,
    weight: Tensor,
    states: tuple[Tensor, Tensor],
    cu_seqlens: Tensor | None,
    stop: Stop,
    *,
    phantom: bool,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """y (B, T, D), the final states (S, D, N), (S, D) and the report (S, 4); W^T (D, M), (0, M) for none.

    `inputs` are (B, T, ...); their own weight is not looked at, and `cell` is one without hidden dependence.
    """
    A, D, scale, (s0, y0) = inputs.A, inputs.D, inputs.norm, states

    def gates(p: Tensor, y: Tensor) -> Gates:
        return cell.gates(p + y @ weight if len(weight) else p, weight, y)

    def recurrence(u: Tensor, dt: Tensor, p: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        s, y = state[..., :-1], state[..., -1]
        outputs = []
        for u_t, dt_t, p_t in zip(u.unbind(1), dt.unbind(1), p.unbind(1), strict=True):
            g, kept = gates(p_t, y), (dt_t.unsqueeze(-1) * A).exp() * s
            gain = cell.gain(g, dt_t, D)
            rest = (kept * g.c.unsqueeze(-2)).sum(-1) + gain * cell.mixed(g, u_t, torch.zeros_like(u_t))
            y = _root(cell, g, rest, gain, scale, stop)
            s = kept + (dt_t * cell.mixed(g, u_t, y)).unsqueeze(-1) * g.b.unsqueeze(-2)
            outputs.append(y)
        return torch.stack(outputs, 1), torch.cat((s, y.unsqueeze(-1)), -1)

    state = torch.cat((s0, y0.unsqueeze(-1)), -1)
    y, final = over_sequences(op, recurrence, inputs[:3], state, cu_seqlens)
    s, last = final[..., :-1].contiguous(), final[..., -1].contiguous()
    if phantom:
        y = y.detach()
        g = gates(inputs.p, previous_token(y, y0.detach(), cu_seqlens))
        x = cell.mixed(g, inputs.u, y)
        o, s = selective_scan(x, inputs.dt, A, g.b, g.c, D, initial_state=s0, cu_seqlens=cu_seqlens)
        y = norm(o, scale).y
        ends = -1 if cu_seqlens is None else (cu_seqlens[1:].long() - 1).clamp_min(0)
        filled = y[:, -1] if cu_seqlens is None else y[0, ends]
        last = filled if cu_seqlens is None else torch.where((cu_seqlens.diff() > 0).unsqueeze(-1), filled, y0)
    return y, (s, last), _report(last)


def _root(cell: SelectiveCell, g: Gates, rest: Tensor, gain: Tensor, scale: Tensor, stop: Stop) -> Tensor:
    """y = norm(rest + gain K y) with its derivatives: the root is found as a constant, Newton steps from it are not."""
    factors = type(g.factors)(*(f.detach() for f in g.factors))
    constant = Gates(g.pre.detach(), g.b.detach(), g.c.detach(), factors)
    with torch.no_grad():
        # Less the bias of the norm, y is the solution without one of what remains.
        bias = scale[1].expand_as(rest)
        known = rest + gain * cell.mixing.apply(factors, bias)
        y = cell.solve(constant, known.detach(), gain.detach(), scale[0].detach(), stop)[0] + bias
    for _ in range(_STEPS):
        normed = norm(rest + gain * cell.mixing.apply(g.factors, y), scale)
        slope = slope_of(normed, gain)
        y = y - cell.mixing.solve(g.factors, slope, y - normed.y)
    return y


def _report(final: Tensor) -> Tensor:
    """(S, 4): exact, one token after the other; what is not finite stays so to the end."""
    finite = final.isfinite().all(-1)
    zero = torch.zeros_like(final[:, 0])
    return torch.stack((zero, zero.masked_fill(~finite, torch.inf), finite.to(zero.dtype), zero + 1), 1)
