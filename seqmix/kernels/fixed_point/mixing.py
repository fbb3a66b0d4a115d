"""The mixings K by name."""

from seqmix.kernels.fixed_point.kronecker import Kronecker
from seqmix.kernels.fixed_point.kronecker_released import ReleasedKronecker
from seqmix.kernels.fixed_point.low_rank import LowRank

MIXINGS = ("householder", "dplr", "kronecker", "kronecker-released")


def mixing_of(name: str, width: int, rank: int, strength: float, *, spectral: bool) -> LowRank | Kronecker:
    """The mixing of a name; `spectral` is about the released Kronecker factors only."""
    if name == "kronecker":
        return Kronecker(width, strength)
    if name == "kronecker-released":
        return ReleasedKronecker(width, strength, spectral)
    return LowRank(width, rank, strength, product=name == "householder")
