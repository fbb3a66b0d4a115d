"""Sweeps on a GPU, without a look from the host: nothing in the loop waits for a number.

All sequences take part in every sweep, and one that is done keeps its iterate. Whether any is still busy is copied to
the host behind the sweeps; the loop ends when such a copy has arrived and says no, some sweeps later than it could.
Under stream capture nothing can arrive, and the loop runs to its cap.
"""

from collections import deque

import torch
from torch import Tensor

from seqmix.kernels.fixed_point.problem import Problem, Solved, Stop, capturing


class _Flag:
    """A number on its way from the GPU to the host."""

    def __init__(self, busy: Tensor) -> None:
        self.value = torch.empty((), dtype=torch.bool, pin_memory=True)
        self.value.copy_(busy, non_blocking=True)
        self.event = torch.cuda.Event()
        # Behind the copy, on its device, which need not be the current one.
        self.event.record(torch.cuda.current_stream(busy.device))

    def arrived(self) -> bool:
        return self.event.query()

    def __bool__(self) -> bool:
        return bool(self.value)


def can_poll(device: torch.device) -> bool:
    """Whether numbers arrive on the host while the loop goes on."""
    return device.type == "cuda" and not capturing(device)


def iterate(problem: Problem, y: Tensor, stop: Stop) -> tuple[Tensor, Solved]:
    """Sweeps y <- F(y) to the tolerance or the cap, which must not be 0; what then becomes of failures is the caller's.

    Iterations, residuals and iterates are those of `sweeps.solve`, but for sequences that it drops as diverging.
    """
    rows = problem.rows

    busy = rows.lengths > 0
    iterations = torch.zeros(rows.sequences, dtype=torch.long, device=y.device)
    residual = y.new_zeros(rows.sequences)
    poll, flags = can_poll(y.device), deque[_Flag]()
    for _ in range(stop.cap):
        y, change, size = problem.measured_sweep(y, busy, stop.damping)
        ratio = (change / size.clamp_min(1e-30)).nan_to_num(nan=torch.inf)
        residual = torch.where(busy, ratio, residual)
        iterations = iterations + busy
        busy = busy & (ratio > stop.tolerance) & ~ratio.isinf()
        if poll:
            flags.append(_Flag(busy.any()))
            # None is dropped before it arrives: the host may be any number of sweeps ahead.
            while flags and flags[0].arrived():
                if not flags.popleft():
                    return y, _report(iterations, residual, stop)
    return y, _report(iterations, residual, stop)


def _report(iterations: Tensor, residual: Tensor, stop: Stop) -> Solved:
    return Solved(iterations, residual, residual <= stop.tolerance, torch.zeros_like(residual))
