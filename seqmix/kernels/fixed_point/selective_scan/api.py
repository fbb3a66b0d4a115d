"""`fixed_point_selective_scan`: the recurrence of the fixed-point Mamba as one differentiable op."""

from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqmix.kernels import checks
from seqmix.kernels._backend import outside_autocast, preferred
from seqmix.kernels._recurrent_op import recurrent_op, same
from seqmix.kernels.fixed_point import reference
from seqmix.kernels.fixed_point.mixing import mixing_of
from seqmix.kernels.fixed_point.problem import Solved, Stop
from seqmix.kernels.fixed_point.reference import full_weight
from seqmix.kernels.fixed_point.rows import Rows
from seqmix.kernels.fixed_point.selective_scan.cell import PARTS, Cell
from seqmix.kernels.fixed_point.selective_scan.solvers import Adjoint, Forward, compiled
from seqmix.kernels.fixed_point.selective_scan.tokens import Inputs
from seqmix.kernels.fixed_point.sweeps import by_sweeps

OP = "fixed_point_selective_scan"


@cache
def cell(mixing: str, width: int, states: int, rank: int, strength: float, hidden: str) -> Cell:
    """The cell of a layer; `hidden` are names of `PARTS`, separated by spaces."""
    chosen = mixing_of(mixing, width, rank, strength, spectral=False)
    return Cell(chosen, states, tuple(part for part in PARTS if part in hidden.split()))


def fixed_point_selective_scan(
    u: Tensor,
    dt: Tensor,
    p: Tensor,
    A: Tensor,
    D: Tensor,
    weight: Tensor,
    norm: Tensor,
    initial_states: tuple[Tensor, Tensor],
    *,
    mixing: str,
    rank: int,
    strength: float,
    hidden: str,
    solver: str,
    tolerance: float,
    max_iterations: int,
    damping: float,
    fallback: bool,
    gradient: str,
    cu_seqlens: Tensor | None = None,
) -> tuple[Tensor, tuple[Tensor, Tensor], Tensor]:
    """y_t = norm(s_t c_t + D x_t), s_t = e^{dt_t A} s_{t-1} + dt_t x_t b_t^T, x_t = u_t + K_t (y_t - u_t).

    Under `seqmix.kernels.backend("reference")` every solver is the sequential one in plain torch.

    Args:
        u, dt: inputs and steps (B, T, D).
        p: pre-activations (B, T, M) of b, c and the mixing, in that order.
        A, D: rates (D, N) and the direct path (D,).
        weight: W, with rows for the parts named in `hidden` only, (R, D); it meets y_{t-1}.
        norm: weight and bias of the norm (2, D).
        initial_states: s_0 (S, D, N) and y_0 (S, D).
        solver: `"sweeps"` or `"sequential"`; the others as in `fixed_point_scan`.

    Returns:
        y (B, T, D), the final states, and the report (S, 4) as in `fixed_point_scan`.

    Raises:
        ValueError: states or offsets that do not fit.
    """
    sequences = checks.n_sequences(u.shape[0], cu_seqlens)
    s0, y0 = initial_states
    checks.check_tensor(OP, "state.ssm", s0, "S D N")
    checks.check_shape(OP, "state.ssm", s0, (sequences, *A.shape), "sequences, channels, states")
    checks.check_tensor(OP, "state.y", y0, "S D")
    checks.check_shape(OP, "state.y", y0, (sequences, A.shape[0]), "sequences, channels")
    checks.check_together(OP, "x", **{"x": u, "state.ssm": s0, "state.y": y0})
    if preferred() == "reference":
        # The gates that see y get it from outside, by a product that is no work in place.
        seeing, alone = (cell.__wrapped__(mixing, *A.shape, rank, strength, parts) for parts in (hidden, ""))
        inputs, stop = Inputs(u, dt, p, A, D, weight, norm), Stop(tolerance, max_iterations, damping, fallback)
        return reference.fixed_point_selective_scan(
            OP, alone, inputs, full_weight(seeing, weight), (s0.to(u.dtype), y0.to(u.dtype)), cu_seqlens, stop,
            phantom=gradient == "phantom",
        )  # fmt: skip
    y, final, last, report = _scan(
        u, dt, p, A, D, weight, norm, s0.to(u.dtype), y0.to(u.dtype), cu_seqlens, mixing, rank, strength,
        hidden, solver, tolerance, max_iterations, damping, fallback, gradient,
    )  # fmt: skip
    return y, (final, last), report


class _Options(NamedTuple):
    """What the op takes behind its tensors, in its order."""

    mixing: str
    rank: int
    strength: float
    hidden: str
    solver: str
    tolerance: float
    max_iterations: int
    damping: float
    fallback: bool
    gradient: str


def _problem(tensors: tuple[Tensor, ...], rows: Rows, asked: _Options) -> Forward:
    u, dt, p, A, D, weight, norm, s0, y0 = tensors
    inputs = Inputs(u.flatten(0, 1), dt.flatten(0, 1), p.flatten(0, 1), A, D, weight, norm)
    chosen = cell(asked.mixing, A.shape[0], A.shape[1], asked.rank, asked.strength, asked.hidden)
    stop = Stop(asked.tolerance, asked.max_iterations, asked.damping, asked.fallback)
    return Forward(chosen, inputs, s0, y0, rows, stop)


def _forward(
    u: Tensor, dt: Tensor, p: Tensor, A: Tensor, D: Tensor, weight: Tensor, norm: Tensor, s0: Tensor, y0: Tensor,
    cu_seqlens: Tensor | None, *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    asked, rows = _Options(*options), Rows.of(OP, u, cu_seqlens)
    problem = _problem((u, dt, p, A, D, weight, norm, s0, y0), rows, asked)
    if asked.solver == "sweeps":
        y, report = by_sweeps(problem, torch.zeros_like(problem.inputs.u), problem.stop)
        _, final = problem.scan(y)
    else:
        y, final, left = problem.solve_one_by_one()
        # Near a pole a solve is as exact as the type allows, and no more.
        enough = max(asked.tolerance, torch.finfo(y.dtype).eps ** 0.5)
        report = Solved(problem.steps, left, left <= enough, torch.ones_like(left))
    return y.view_as(u), final, rows.end(y, y0), report.stack(u.dtype)


@outside_autocast
def _backward(
    dy: Tensor, dfinal: Tensor, dlast: Tensor, u: Tensor, dt: Tensor, p: Tensor, A: Tensor, D: Tensor, weight: Tensor,
    norm: Tensor, s0: Tensor, y0: Tensor, y: Tensor, cu_seqlens: Tensor | None, *options: Any,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    asked, rows = _Options(*options), Rows.of(OP, u, cu_seqlens)
    problem = _problem((u, dt, p, A, D, weight, norm, s0, y0), rows, asked)
    if asked.gradient == "implicit" and asked.solver == "sequential" and compiled(problem.cell, u.device):
        adjoint = Adjoint(problem, y.flatten(0, 1), dy.flatten(0, 1), dfinal)
        exact, dweight = adjoint.compiled_backward(dlast), torch.zeros_like(weight)
        if adjoint.cell.spans:
            dweight = adjoint.cell.recurrent_rows(exact.p).mT @ adjoint.before
        du, ddt, dp = exact.u.view_as(u), exact.dt.view_as(dt), exact.p.view_as(p)
        return du, ddt, dp, exact.A, exact.D, dweight, exact.norm, exact.s0, exact.y0

    cotangent = rows.add_at_end(dy.flatten(0, 1), dlast)
    adjoint = Adjoint(problem, y.flatten(0, 1), cotangent, dfinal)
    if asked.gradient == "phantom":
        zeta = cotangent
    elif asked.solver == "sweeps":
        zeta, _ = by_sweeps(adjoint, torch.zeros_like(cotangent), problem.stop)
    else:
        zeta = adjoint.one_by_one()

    d = adjoint.gradients(zeta)
    dweight = torch.zeros_like(weight)
    dy0 = torch.zeros_like(y0)
    if adjoint.cell.spans:
        dweight = adjoint.cell.recurrent_rows(d.p).mT @ adjoint.before
        if asked.gradient == "implicit":
            dy0 = rows.start(adjoint.through_gates(d.p), dy0)
    # An empty sequence hands its states on.
    dy0 = torch.where((rows.lengths == 0).unsqueeze(-1), dlast, dy0)
    return d.u.view_as(u), d.dt.view_as(dt), d.p.view_as(p), d.A, d.D, dweight, d.norm, d.s0, dy0


def _fakes(given: dict[str, Any]) -> list[Tensor]:
    return [*same("u", "s0", "y0")(given), given["u"].new_empty(given["s0"].shape[0], 4)]


_scan = recurrent_op(
    OP,
    OP,
    _forward,
    _backward,
    inputs="u dt p A D weight norm s0 y0",
    outputs="y final last",
    extra="report",
    fakes=_fakes,
    kept="u dt p A D weight norm s0 y0 y",
    options=(
        "str mixing, int rank, float strength, str hidden, str solver, float tolerance, "
        "int max_iterations, float damping, bool fallback, str gradient"
    ),
)
