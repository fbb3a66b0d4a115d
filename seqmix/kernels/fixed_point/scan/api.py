"""`fixed_point_scan`: the recurrence of the fixed-point RNN as one differentiable op, whichever way it is solved."""

import importlib.util
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._backend import outside_autocast, preferred
from seqmix.kernels._recurrent_op import recurrent_op, same
from seqmix.kernels.fixed_point import reference
from seqmix.kernels.fixed_point.low_rank import LowRank
from seqmix.kernels.fixed_point.mixing import mixing_of
from seqmix.kernels.fixed_point.problem import Solved, Stop
from seqmix.kernels.fixed_point.reference import full_weight
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.scan import direct
from seqmix.kernels.fixed_point.scan.cell import PARTS, Cell
from seqmix.kernels.fixed_point.scan.solvers import Adjoint, Forward
from seqmix.kernels.fixed_point.sweeps import by_sweeps

if TYPE_CHECKING:
    from seqmix.kernels.fixed_point.scan import cpu

OP = "fixed_point_scan"
_HAS_NUMBA = importlib.util.find_spec("numba") is not None


@cache
def cell(mixing: str, width: int, rank: int, strength: float, hidden: str, gated: bool, normed: bool) -> Cell:
    """The cell of a layer; `hidden` are names of `PARTS`, separated by spaces."""
    chosen = mixing_of(mixing, width, rank, strength, spectral=True)
    return Cell(chosen, tuple(part for part in PARTS if part in hidden.split()), gated, normed)


def fixed_point_scan(
    p: Tensor,
    weight: Tensor,
    initial_state: Tensor,
    *,
    mixing: str,
    rank: int,
    strength: float,
    hidden: str,
    gated: bool,
    normed: bool,
    solver: str,
    tolerance: float,
    max_iterations: int,
    damping: float,
    fallback: bool,
    gradient: str,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """h_t = lambda_t h_{t-1} + (1 - lambda_t) (e_t + K_t (h_t - e_t)), the gates from p_t + W s_{t-1}.

    Under `seqmix.kernels.backend("reference")` every solver is the sequential one in plain torch.

    Args:
        p: pre-activations (B, T, M) of lambda and b, with `gated` v, and those of the mixing, in that order.
        weight: W, with rows for the parts named in `hidden` only, (R, N).
        initial_state: h_0 (S, N).
        mixing, rank, strength: as in `FixedPointRNN`.
        gated: e = b v instead of b.
        normed: s = rms(h) instead of h.
        solver: `"sweeps"`, `"sequential"` or `"direct"`.
        tolerance, max_iterations, damping: when sweeps stop (0: no cap), and the size of a step.
        fallback: solve sequences whose sweeps diverge sequentially.
        gradient: `"implicit"`, exact, or `"phantom"`, through one application.

    Returns:
        h (B, T, N), the final states (S, N), and the report (S, 4), without gradient: iterations, residual, converged,
        sequential.

    Raises:
        ValueError: a state or offsets that do not fit.
    """
    shape = (checks.n_sequences(p.shape[0], cu_seqlens), weight.shape[1])
    checks.check_tensor(OP, "state", initial_state, "S N")
    checks.check_shape(OP, "state", initial_state, shape, "sequences, channels")
    checks.check_together(OP, "x", x=p, weight=weight, state=initial_state)
    if preferred() == "reference":
        chosen = cell.__wrapped__(mixing, weight.shape[1], rank, strength, hidden, gated, normed)
        return reference.fixed_point_scan(
            OP, chosen, p, full_weight(chosen, weight), initial_state.to(p.dtype), cu_seqlens,
            phantom=gradient == "phantom",
        )  # fmt: skip
    return _scan(
        p, weight, initial_state.to(p.dtype), cu_seqlens, mixing, rank, strength, hidden, gated, normed,
        solver, tolerance, max_iterations, damping, fallback, gradient,
    )  # fmt: skip


def _compiled(chosen: Cell, p: Tensor) -> bool:
    return _HAS_NUMBA and p.device.type == "cpu" and isinstance(chosen.mixing, LowRank)


def _compiled_problem(chosen: Cell, p: Tensor, weight: Tensor, h0: Tensor, rows: Rows) -> "cpu.Problem":
    from seqmix.kernels.fixed_point.scan import cpu

    # W^T of the numbers from the first to the last part that sees the state, zeros for one between that does not.
    seen = chosen.spans[0].start if chosen.spans else 0
    wide = weight.new_zeros(weight.shape[1], chosen.spans[-1].stop - seen if chosen.spans else 0)
    for span, part in zip(chosen.spans, chosen._split(weight.mT), strict=True):
        wide[:, span.start - seen : span.stop - seen] = part
    m = chosen.mixing
    assert isinstance(m, LowRank)
    constants = (m.rank, m.strength, m.product, chosen.gated, chosen.normed)
    return cpu.Problem(p, wide, seen, h0, rows.bounds, *constants)


class _Options(NamedTuple):
    """What the op takes behind its tensors, in its order."""

    mixing: str
    rank: int
    strength: float
    hidden: str
    gated: bool
    normed: bool
    solver: str
    tolerance: float
    max_iterations: int
    damping: float
    fallback: bool
    gradient: str

    @property
    def stop(self) -> Stop:
        return Stop(self.tolerance, self.max_iterations, self.damping, self.fallback)

    def cell(self, width: int) -> Cell:
        return cell(self.mixing, width, self.rank, self.strength, self.hidden, self.gated, self.normed)


def _forward(
    p: Tensor, weight: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    asked = _Options(*options)
    chosen = asked.cell(weight.shape[1])
    rows = Rows.of(OP, p, cu_seqlens)
    flat, h0 = p.flatten(0, 1), initial_state
    if asked.solver == "sequential" and _compiled(chosen, p):
        h, final = _compiled_problem(chosen, flat, weight, h0, rows).forward()
        report = _exact_report(rows, h, sequential=True)
    else:
        problem = Forward(chosen, flat, weight, h0, rows)
        if asked.solver == "sweeps":
            start = h0.new_zeros(rows.total, h0.shape[1])
            h, report = by_sweeps(problem, start, asked.stop)
        else:
            h = direct.forward(problem) if asked.solver == "direct" else problem.one_by_one()
            report = _exact_report(rows, h, sequential=asked.solver == "sequential")
        final = rows.end(h, h0)
    return h.view(*p.shape[:2], -1), final, report.stack(p.dtype)


def _exact_report(rows: Rows, h: Tensor, sequential: bool) -> Solved:
    zero = h.new_zeros(rows.sequences)
    finite = rows.largest(h).isfinite()
    return Solved(zero, zero.masked_fill(~finite, torch.inf), finite, zero + sequential)


@outside_autocast
def _backward(
    dh: Tensor, dfinal: Tensor, p: Tensor, weight: Tensor, initial_state: Tensor, h: Tensor, cu_seqlens: Tensor | None,
    *options: Any,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    asked = _Options(*options)
    chosen = asked.cell(weight.shape[1])
    rows = Rows.of(OP, p, cu_seqlens)
    flat, h_flat, h0, dh = p.flatten(0, 1), h.flatten(0, 1), initial_state, dh.flatten(0, 1)
    before = rows.previous(h_flat, h0)
    if asked.gradient == "implicit" and asked.solver == "sequential" and _compiled(chosen, p):
        dp, dh0 = _compiled_problem(chosen, flat, weight, h0, rows).backward(h_flat, dh, dfinal)
    else:
        cotangent = rows.add_at_end(dh, dfinal)
        adjoint = Adjoint(Forward(chosen, flat, weight, h0, rows), h_flat, cotangent)
        if asked.gradient == "phantom":
            v = adjoint.scan(cotangent)
        elif asked.solver == "sweeps":
            v, _ = by_sweeps(adjoint, torch.zeros_like(cotangent), asked.stop)
        else:
            v = direct.adjoint(adjoint) if asked.solver == "direct" else adjoint.one_by_one()
        dp = adjoint.vjp(v)
        back = adjoint.gates.decay * v
        if asked.gradient == "implicit":
            back = back + chosen.hidden_vjp(dp, weight, before)
        dh0 = rows.start(back, dfinal)
    dweight = chosen.recurrent_rows(dp).mT @ chosen.seen(before) if chosen.spans else torch.zeros_like(weight)
    return dp.view_as(p), dweight, dh0


def _fakes(given: dict[str, Any]) -> list[Tensor]:
    p, h0 = given["p"], given["initial_state"]
    return [p.new_empty(*p.shape[:2], h0.shape[1]), *same("initial_state")(given), p.new_empty(h0.shape[0], 4)]


_scan = recurrent_op(
    OP,
    OP,
    _forward,
    _backward,
    inputs="p weight initial_state",
    outputs="h final",
    extra="report",
    fakes=_fakes,
    kept="p weight initial_state h",
    options=(
        "str mixing, int rank, float strength, str hidden, bool gated, bool normed, str solver, float tolerance, "
        "int max_iterations, float damping, bool fallback, str gradient"
    ),
)
