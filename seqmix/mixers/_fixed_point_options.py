"""What both fixed-point layers keep, and the arguments that both take, checked."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from seqmix._checks import is_number, positive
from seqmix.kernels.transforms import is_transformed
from seqmix.mixers.base import TokenMixer, one_of


class Reporting(TokenMixer):
    """A layer that keeps the report of its last call."""

    last_solve: Tensor | None = None

    def mix_padded(self, x: Tensor, state: Any, lengths: Tensor) -> tuple[Tensor, Any]:
        y, state = super().mix_padded(x, state, lengths)
        self.last_solve = None if self.last_solve is None else self.last_solve[::2]  # of sequences, not of padding
        return y, state


class SolverOptions(NamedTuple):
    """When sweeps stop, how far they step, and how gradients pass the fixed point."""

    max_iterations: int | None
    tolerance: float | None
    damping: float
    fallback: bool
    gradient: str

    @classmethod
    def checked(
        cls, owner: str, max_iterations: Any, tolerance: Any, damping: Any, fallback: Any, gradient: Any
    ) -> "SolverOptions":
        """Raises `ValueError` by name, also for a tolerance of 0 with no cap, which would never end."""
        if max_iterations is not None:
            positive(owner, "max_iterations", max_iterations)
        if tolerance is not None and not (isinstance(tolerance, int | float) and 0 <= tolerance < math.inf):
            raise ValueError(f"{owner}: tolerance must be None or a finite number of at least 0, got {tolerance!r}")
        if tolerance == 0 and max_iterations is None:
            raise ValueError(f"{owner}: tolerance must be above 0 where max_iterations is None, got {tolerance!r}")
        if not (isinstance(damping, int | float) and 0 < damping <= 1):
            raise ValueError(f"{owner}: damping must be in (0, 1], got {damping!r}")
        one_of(owner, "fallback", fallback, (True, False))
        one_of(owner, "gradient", gradient, ("implicit", "phantom"))
        chosen = None if tolerance is None else float(tolerance)
        return cls(max_iterations, chosen, float(damping), bool(fallback), gradient)

    def arguments(self, dtype: torch.dtype) -> dict[str, Any]:
        """What an op takes; it has 0 for no cap."""
        return self._asdict() | {
            "max_iterations": self.max_iterations or 0,
            "tolerance": self.tolerance_for(dtype),
        }

    def tolerance_for(self, dtype: torch.dtype) -> float:
        """The tolerance in a type: 16 rounding errors where none was given."""
        return 16 * torch.finfo(dtype).eps if self.tolerance is None else self.tolerance


def kept(report: Tensor) -> Tensor | None:
    """What a layer keeps of a report: nothing of a trace or a transform, whose tensors end with it."""
    return None if torch.compiler.is_exporting() or is_transformed(report) else report.detach()


def bits_of(solver: str, together: bool, dense: bool) -> tuple[str, str]:
    """`varies_when_cut` and `varies_in_batch` of a layer that solves many tokens together, or dense systems."""
    cut = solver in ("sweeps", "direct") or (solver == "auto" and together)
    return (
        "their tokens are solved together" * cut,
        "its tokens are dense systems, solved for all sequences at once" * dense,
    )


def names_of(owner: str, name: str, value: Any, choices: tuple[str, ...]) -> tuple[str, ...]:
    """`value` as a tuple of different names among `choices`, in their order."""
    given = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, Sequence) else None
    if given is None or any(item not in choices for item in given):
        raise ValueError(f"{owner}: {name} must be names among {', '.join(map(repr, choices))}, got {value!r}")
    return tuple(choice for choice in choices if choice in given)


def strength_of(owner: str, strength: Any, mixing: str, rank: int, max_radius: Any) -> float:
    """The strength of K, or what keeps its norm below `max_radius`, alpha by alpha, if that is less."""
    if not is_number(strength) or not 0 < strength <= 2:
        raise ValueError(f"{owner}: strength must be in (0, 2], got {strength!r}")
    if max_radius is None:
        return float(strength)
    if not (isinstance(max_radius, int | float) and 0 < max_radius < 1):
        raise ValueError(f"{owner}: max_radius must be None or in (0, 1), got {max_radius!r}")
    if mixing == "kronecker-released":
        raise ValueError(f"{owner}: max_radius must be None with mixing 'kronecker-released', which has no such bound")
    # |I - Q_1 Q_2| <= |I - Q_1| + |I - Q_2| while both are contractions.
    return min(float(strength), max_radius if mixing == "kronecker" else max_radius / max(rank, 1))
