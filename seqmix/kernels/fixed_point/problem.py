"""What a solver by sweeps asks of a problem, when it is to stop, and what it reports."""

from typing import NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from seqmix.kernels.fixed_point.rows import Rows

P = TypeVar("P", bound="Problem")


class Problem(Protocol):
    """Something with a fixed point y (L, D) in every sequence."""

    rows: Rows

    def sweep(self, y: Tensor) -> Tensor:
        """F(y), for all tokens at once."""

    def measured_sweep(self, y: Tensor, busy: Tensor, damping: float) -> tuple[Tensor, Tensor, Tensor]:
        """What `by_parts` gives, in fewer passes where there is a kernel."""

    def select(self: P, ids: Tensor) -> P:
        """The same for some of the sequences."""

    def radius(self, y: Tensor) -> Tensor:
        """The spectral radius (L,) of a sweep at each token: the iteration there contracts below one."""

    def astray(self, y: Tensor) -> Tensor | None:
        """The tokens (L,) that sit on another fixed point than `one_by_one` finds; None where there is only one."""

    def one_by_one(self) -> Tensor:
        """The fixed point, one token after the other."""


class Stop(NamedTuple):
    """When to stop: a residual, a number of sweeps (0 for no limit), the size of a step, and what comes after."""

    tolerance: float
    cap: int
    damping: float
    fallback: bool = True  # sequences that diverge are solved otherwise


class Solved(NamedTuple):
    """One solve, by sequence: these four are the columns of a layer's report."""

    iterations: Tensor  # (S,) sweeps that the sequence took part in, 0 where none were needed
    residual: Tensor  # (S,) max |F(y) - y| / max |y| over its tokens
    converged: Tensor  # (S,) residual <= tolerance
    sequential: Tensor  # (S,) solved one token after the other, by choice or because sweeps diverged

    def stack(self, dtype: torch.dtype) -> Tensor:
        """(S, 4)."""
        return torch.stack([column.to(dtype) for column in self], 1)


def capturing(device: torch.device) -> bool:
    """Whether a CUDA graph is being captured, in which nothing can wait for a number."""
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()
