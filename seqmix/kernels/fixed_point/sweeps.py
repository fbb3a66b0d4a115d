"""Fixed points over whole sequences by sweeps y <- F(y), each sequence stopped on its own."""

import torch
from torch import Tensor

from seqmix.kernels.fixed_point.problem import Problem, Solved, Stop, capturing
from seqmix.kernels.fixed_point.sweeps_device import iterate

_CHECK_EVERY = 64  # sweeps between looks for divergence where there is no cap


def by_parts(problem: Problem, y: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
    """The next iterate (L, D), and by sequence (S,) max |F(y) - y| and max |y|; those not `busy` (S,) keep theirs."""
    new, rows = problem.sweep(y), problem.rows
    change = rows.largest(new - y)
    new = new if damping == 1 else torch.lerp(y, new, damping)
    return torch.where(busy[rows.sequence].unsqueeze(1), new, y), change, rows.largest(new)


def solve(problem: Problem, y: Tensor, stop: Stop) -> tuple[Tensor, Solved, Tensor]:
    """y (L, D) after sweeps from `y`, the record, and the sequences (ids) whose sweeps diverge or go astray.

    A sequence leaves as soon as its residual is within the tolerance, and costs nothing from there on. One that is
    not done at the cap diverges if a token of it has a radius of one or more (or numbers that are not finite); else
    it is only slow, keeps its last iterate and is reported as not converged.
    """
    if y.is_cuda and stop.cap:
        return solve_on_device(problem, y, stop)
    rows, solution = problem.rows, y.clone()
    ids = torch.arange(rows.sequences, device=y.device)[rows.lengths > 0]
    iterations = torch.zeros(rows.sequences, dtype=torch.long, device=y.device)
    residual = y.new_zeros(rows.sequences)
    diverging: list[Tensor] = []
    current, count = problem, 0
    where: Tensor | slice = slice(None)
    if len(ids) < rows.sequences:
        where, _ = rows.select(ids)
        current, y = problem.select(ids), y[where]
    while len(ids):
        new = current.sweep(y)
        change = current.rows.largest(new - y)
        new = new if stop.damping == 1 else torch.lerp(y, new, stop.damping)
        ratio = (change / current.rows.largest(new).clamp_min(1e-30)).nan_to_num(nan=torch.inf)
        count += 1
        iterations[ids], residual[ids] = count, ratio
        solution[where], y = new, new
        done = (ratio <= stop.tolerance) | ratio.isinf()
        if count == stop.cap:
            done = torch.ones_like(done)
        if bool(done.any()) or (stop.cap == 0 and count % _CHECK_EVERY == 0):
            failed = ratio > stop.tolerance
            if bool(failed.any()):
                wild = failed & (current.rows.largest(current.radius(y).unsqueeze(1)) >= 1)
                diverging.append(ids[wild])
                done = done | wild
            elsewhere = current.astray(y)
            if elsewhere is not None:
                diverging.append(
                    ids[(ratio <= stop.tolerance) & (current.rows.largest(elsewhere.to(y.dtype)[:, None]) > 0)]
                )
            ids, kept = ids[~done], (~done).nonzero().squeeze(1)
            if len(ids):
                inner, _ = current.rows.select(kept)
                current, y = current.select(kept), y[inner]
                where, _ = rows.select(ids)
    wild = torch.cat(diverging) if diverging else ids[:0]
    report = Solved(iterations, residual, residual <= stop.tolerance, torch.zeros_like(residual))
    return solution, report, wild


def solve_on_device(problem: Problem, y: Tensor, stop: Stop) -> tuple[Tensor, Solved, Tensor]:
    """The same without a look from the host before the end: whoever has not converged by then is looked into.

    The one look tells whether a sequence is to be solved one token after the other, which is work of another shape.
    Without that fallback, or where a CUDA graph is captured, there is none: the report has what failed.
    """
    rows = problem.rows
    y, report = iterate(problem, y, stop)
    failed, elsewhere = ~report.converged & (rows.lengths > 0), problem.astray(y)
    astray = torch.zeros_like(failed)
    if elsewhere is not None:
        astray = report.converged & (rows.largest(elsewhere.to(y.dtype)[:, None]) > 0)
        report = report._replace(converged=report.converged & ~astray)
    nobody = torch.empty(0, dtype=torch.long, device=y.device)
    if not stop.fallback or capturing(y.device) or not bool((failed | astray).any()):
        return y, report, nobody
    wild = astray | (failed & (rows.largest(problem.radius(y).unsqueeze(1)) >= 1))
    return y, report, wild.nonzero().squeeze(1)


def residual(problem: Problem, y: Tensor) -> Tensor:
    """max |F(y) - y| / max |y| in each sequence, by one sweep."""
    change = problem.rows.largest(problem.sweep(y) - y)
    return (change / problem.rows.largest(y).clamp_min(1e-30)).nan_to_num(nan=torch.inf)


def by_sweeps(problem: Problem, start: Tensor, stop: Stop) -> tuple[Tensor, Solved]:
    """Sweeps, and one token after the other for the sequences whose sweeps diverge or go astray."""
    y, report, wild = solve(problem, start, stop)
    if len(wild):
        report.converged[wild] = False
    if len(wild) and stop.fallback:
        where, _ = problem.rows.select(wild)
        part = problem.select(wild)
        y[where] = exact = part.one_by_one()
        report.sequential[wild] = 1
        report.residual[wild] = left = residual(part, exact)
        # A solve near a pole of M^-1 is as exact as the type allows, and no more.
        report.converged[wild] = left <= max(stop.tolerance, torch.finfo(y.dtype).eps ** 0.5)
    return y, report
