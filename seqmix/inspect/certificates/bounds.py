"""Vectors known up to a radius, through layer norms, matrices and SwiGLU, with rounding included.

A `Spread` is a set of vectors: centre + sum_j M_j e_j + b with |e_j| <= r_j and |b| <= box, entry by entry. Keeping the
matrices M_j instead of adding |M_j| r_j to the box lets what follows multiply into them first, so that nothing is lost
where a read-out looks along a direction in which the uncertain entries cannot move it.

Every radius also covers rounding of any evaluation in the model's own type, in whatever order it sums: a sum of n
products is off by at most gamma(n) times the sum of their absolute values (Higham 2002, section 3.1), and by what
underflow takes away. Where something could overflow the radius is infinite. Letters: P points, D model width, K numbers
of a layer's state.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

__all__ = ["Norm", "Rounding", "Spread", "exactly", "margins", "normed_linear", "plus", "silu_times"]

Array = NDArray[np.float64]

_SLACK = 4.0  # on every rounding bound: exp, rsqrt and the norm's own order of work are within a few units
_EXTRA = 16  # operations beside the terms of a sum
_ROOM = 2.0**20  # between the ends of a type and numbers that are taken for safe from under- and overflow


class Rounding(NamedTuple):
    """The type that the model runs in: its unit roundoff, the argument below which its exp is zero, and its ends.

    An operation is off by at most `least` more than its relative error, and overflows nowhere below `most`.
    """

    unit: float
    vanishes: float
    least: float
    most: float

    @classmethod
    def of(cls, dtype: torch.dtype) -> "Rounding":
        info = torch.finfo(dtype)
        # Half of the smallest subnormal rounds to zero; two more for the rounding of the argument.
        vanishes = float(np.log(info.tiny) + np.log(info.eps / 2) - 2)
        return cls(info.eps / 2, vanishes, info.tiny * _ROOM, info.max / _ROOM)

    def gamma(self, n: int) -> float:
        """Relative error of a sum of n products, outward."""
        return _SLACK * (n + _EXTRA) * self.unit

    def lost(self, weight: Array, norm: Array) -> Array:
        """Underflow (k,) in a matrix (k, D) times a norm's output, which its weight (D,) has been multiplied into."""
        return self.least * (weight.shape[1] + _EXTRA + np.abs(weight).sum(1) + np.abs(weight * norm).sum(1))

    def sound(self, value: Array, radius: Array, sizes: Array) -> tuple[Array, Array]:
        """Values and radii, infinite where a number up to `sizes` could overflow, or where float64 did."""
        safe = np.isfinite(value) & (radius < self.most) & (sizes < self.most)
        return np.where(safe, value, 0.0), np.where(safe, radius, np.inf)


class Norm(NamedTuple):
    """A layer norm without bias: weight (D,)."""

    weight: Array
    eps: float


class Spread(NamedTuple):
    """centre (P, D), uncertain terms as matrices (D, K) with radii (P, K), and a box (P, D)."""

    centre: Array
    terms: tuple[tuple[Array, Array], ...]
    box: Array

    def through(self, matrix: Array) -> Array:
        """Radius (P, k) of `matrix` (k, D) times what deviates from the centre."""
        radius = self.box @ np.abs(matrix).T
        for columns, radii in self.terms:
            radius = radius + radii @ np.abs(matrix @ columns).T
        return radius

    def reach(self) -> Array:
        """Largest absolute values (P, D)."""
        largest = np.abs(self.centre) + self.box
        for columns, radii in self.terms:
            largest = largest + radii @ np.abs(columns).T
        return largest


def exactly(centre: Array) -> Spread:
    """Vectors (P, D) without any doubt."""
    return Spread(centre, (), np.zeros_like(centre))


def plus(x: Spread, matrix: Array, value: Array, radius: Array, rounding: Rounding) -> Spread:
    """x + matrix (D, K) times the vectors value +- radius (P, K)."""
    centre = x.centre + value @ matrix.T
    sizes = (np.abs(value) + radius) @ np.abs(matrix).T
    lost = rounding.least * (matrix.shape[1] + _EXTRA)
    box = x.box + rounding.gamma(matrix.shape[1]) * sizes + rounding.gamma(1) * x.reach() + lost
    return Spread(centre, (*x.terms, (matrix, radius)), box)


def _centred(x: Spread, norm: Norm, rounding: Rounding) -> tuple[Array, Array, Array]:
    """Rounding (P, D) of x - mean(x) as a deviation, and the standard deviation (P, 1) with its radius.

    |sigma(x + e) - sigma(x)| <= |C e| / sqrt(D), with C the removal of the mean: sigma is a norm of (C x, sqrt(eps)).
    """
    d = x.centre.shape[1]
    largest = x.reach()
    rounded = rounding.gamma(d) * (largest + largest.mean(1, keepdims=True))
    mean_free = x.centre - x.centre.mean(1, keepdims=True)
    sigma = np.sqrt((mean_free**2).mean(1, keepdims=True) + norm.eps)
    moved = x.through(np.eye(d) - 1 / d) if x.terms or x.box.any() else 0.0
    radius = np.linalg.norm(moved + rounded, axis=1, keepdims=True) / np.sqrt(d)
    # Squares are what overflows first, and takes the norm's output to zero.
    _, radius = rounding.sound(sigma, radius + rounding.gamma(d) * sigma, 4 * d * largest.max(1, keepdims=True) ** 2)
    return rounded, sigma, radius


def normed_linear(x: Spread, norm: Norm, weight: Array, bias: Array | float, rounding: Rounding) -> tuple[Array, Array]:
    """weight (k, D) norm(x) + bias as values and radii (P, k)."""
    scaled = weight * norm.weight
    centred = scaled - scaled.mean(1, keepdims=True)
    rounded, sigma, sigma_radius = _centred(x, norm, rounding)
    lowest = np.maximum(sigma - sigma_radius, np.sqrt(norm.eps) * (1 - rounding.gamma(1)))
    numerator = x.centre @ centred.T
    noise = 2 * rounded @ np.abs(scaled).T
    value = numerator / sigma + bias
    radius = (x.through(centred) + noise) / lowest + np.abs(numerator) * sigma_radius / (lowest * sigma)
    radius = radius + rounding.gamma(1) * (np.abs(value) + radius) + rounding.lost(weight, norm.weight)
    gamma = rounding.gamma(weight.shape[1])
    # A bias may be what a sum begins with.
    return rounding.sound(value, radius + gamma * np.abs(bias), noise / (gamma * lowest) + np.abs(bias))


def silu_times(gate: Array, gate_radius: Array, up: Array, up_radius: Array, rounding: Rounding) -> tuple[Array, Array]:
    """silu(gate) * up as values and radii (P, k).

    silu' lies in [-0.1, 1.1] and |silu''| <= 1/2, which gives two bounds on how far silu moves; the smaller one holds.
    """
    sigmoid = 1 / (1 + np.exp(-np.clip(gate, -700, 700)))
    silu = gate * sigmoid
    slope = np.abs(sigmoid * (1 + gate * (1 - sigmoid)))
    moved = np.minimum(1.1, slope + 0.25 * gate_radius) * gate_radius
    # silu(x) is at most |x| sigmoid(x), which rounds with a relative error; |x| covers x where exp overflows
    moved = moved + rounding.gamma(1) * (np.abs(silu) + gate_radius) + rounding.least
    value = silu * up
    radius = np.abs(silu) * up_radius + (np.abs(up) + up_radius) * moved
    radius = radius + rounding.gamma(1) * (np.abs(value) + radius) + rounding.least
    return rounding.sound(value, radius, np.abs(value) + radius)


def margins(x: Spread, norm: Norm, head: Array, targets: NDArray[np.int64], rounding: Rounding) -> tuple[Array, Array]:
    """By how much the logits of `targets` (P,) exceed each of the others, as values and radii (P, V).

    In units of the standard deviation, which the norm divides by and the sign of a margin does not depend on. The
    target's own column is infinite.
    """
    scaled = head * norm.weight
    centred = scaled - scaled.mean(1, keepdims=True)
    rounded, sigma, sigma_radius = _centred(x, norm, rounding)
    sums = 2 * rounded @ np.abs(scaled).T
    noise = sums + (sigma + sigma_radius) * rounding.lost(head, norm.weight)
    sizes = sums / (rounding.gamma(head.shape[1]) * np.sqrt(norm.eps))
    logits = x.centre @ centred.T
    through = [(centred @ columns, radii) for columns, radii in x.terms]
    value, radius = np.empty_like(logits), np.empty_like(logits)
    for target in np.unique(targets):
        rows = targets == target
        value[rows] = logits[rows, target, None] - logits[rows]
        moved = x.box[rows] @ np.abs(centred[target] - centred).T
        for matrix, radii in through:
            moved += radii[rows] @ np.abs(matrix[target] - matrix).T
        radius[rows] = moved + noise[rows] + noise[rows, target, None]
    value, radius = rounding.sound(value, radius, sizes)
    rows = np.arange(len(targets))
    value[rows, targets], radius[rows, targets] = np.inf, 0
    return value, radius
