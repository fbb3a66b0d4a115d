"""Finite groups by name, as multiplication tables.

Order of composition, everywhere in seqmix: `table[a, b]` is "a, then b". The running product of a word x_1 .. x_T is
y_t = table[y_{t-1}, x_t] with y_0 = 0, the identity. With P_p the permutation matrix that sends unit vector i to unit
vector p[i], P_{a then b} = P_b P_a, so that a linear recurrence h_t = P_{x_t} h_{t-1} composes in the same order.
"""

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from seqmix._suggest import unknown_name

__all__ = ["MAX_ORDER", "Group", "group"]

MAX_ORDER = 2048  # a table of 32 MiB; S6 has 720 elements, A7 would have 2,520

_EXIST = (
    "there are Zn (cyclic), Sn (all permutations, n at most 6), An (even ones, as far), Dn (symmetries of a polygon), "
    "Q8 (quaternions), and products such as A4xZ5"
)
_FAMILIES = ("Z2", "Z60", "S3", "S4", "S5", "S6", "A3", "A4", "A5", "A6", "D4", "D5", "Q8", "A4xZ5", "Z2xZ2")
_FACTOR = re.compile(r"([ZSAD])([1-9]\d{0,3})|(Q8)")


@dataclass(frozen=True, eq=False)
class Group:
    """A finite group: elements are 0 .. order - 1 and 0 is the identity.

    `table` is (order, order) int64 with `table[a, b]` = a, then b. `permutations` is (order, degree) for the
    groups that are given as permutations (S, A, Z and D on the corners of a polygon), else None.
    """

    name: str
    table: NDArray[np.int64] = field(repr=False)
    permutations: NDArray[np.int64] | None = field(repr=False, default=None)

    @property
    def order(self) -> int:
        return len(self.table)

    def running_product(self, words: NDArray[np.int64]) -> NDArray[np.int64]:
        """y (B, T) with y_t = table[y_{t-1}, x_t] and y_0 the identity, for words x (B, T) of element numbers."""
        # Walked over contiguous rows of length B: a quarter of the time of strided columns.
        columns = np.ascontiguousarray(words.T)
        products = np.empty_like(columns)
        flat, row = self.table.reshape(-1), np.zeros(words.shape[0], dtype=np.int64)
        for t, column in enumerate(columns):
            row = flat.take(row * self.order + column, out=products[t])
        return products.T

    def generated_by(self, elements: Sequence[int]) -> NDArray[np.int64]:
        """The elements of the subgroup that `elements` generate, sorted."""
        reached = np.zeros(self.order, dtype=bool)
        reached[0] = True
        frontier = np.array([0])
        while frontier.size:
            products = np.unique(self.table[np.ix_(frontier, np.asarray(elements, dtype=np.int64))])
            frontier = products[~reached[products]]
            reached[frontier] = True
        return np.flatnonzero(reached)

    def generators(self) -> list[int]:
        """A generating set, small but not always the smallest: each element is the first that enlarges the most."""
        chosen: list[int] = []
        subgroup = np.array([0])
        while subgroup.size < self.order:
            outside = np.setdiff1d(np.arange(self.order), subgroup)
            # A few candidates are enough: two random elements of S_n or A_n usually generate it.
            candidates = outside[np.linspace(0, outside.size - 1, num=min(64, outside.size), dtype=int)]
            best = max(candidates.tolist(), key=lambda element: self.generated_by([*chosen, element]).size)
            chosen.append(best)
            subgroup = self.generated_by(chosen)
        return chosen or [0]


@cache
def group(name: str) -> Group:
    """The group of that name.

    Args:
        name: `Z60` (cyclic, any order), `S5` (symmetric), `A5` (alternating), `D4` (symmetries of the square, order
            8), `Q8` (quaternions), or direct products of these such as `A4xZ5`, with (i, j) at i * |second| + j.

    Raises:
        ValueError: an unknown name (with the nearest ones) or more than `MAX_ORDER` elements.

    Example:
        >>> from seqmix.tasks.groups import group
        >>> group("A5").order, bool((group("Z4").table[1, 3] == 0))
        (60, True)
    """
    if not isinstance(name, str) or not name:
        raise ValueError(f"group: name must be a string such as 'A5' or 'A4xZ5', got {name!r}")
    matches = [_FACTOR.fullmatch(factor) for factor in name.split("x")]
    if not all(matches):
        raise ValueError(f"{unknown_name('group', name, _FAMILIES)}; {_EXIST}")
    factors = [(m[1] or "Q", int(m[2] or 8)) for m in matches if m]
    order = math.prod(_order(family, n) for family, n in factors)
    if order > MAX_ORDER:
        raise ValueError(f"group: {name} has more than {MAX_ORDER:,} elements, which is the limit; {_EXIST}")
    tables = [_BUILDERS[family](n) for family, n in factors]
    table, permutations = tables[0]
    for second, _ in tables[1:]:
        table, permutations = _product(table, second), None
    table.setflags(write=False)
    return Group(name, table, permutations)


def _order(family: str, n: int) -> int:
    # Orders are known before anything is built: S1000 must be refused at once.
    if family == "S":
        return math.factorial(min(n, 20))
    if family == "A":
        return max(1, math.factorial(min(n, 20)) // 2)
    return 2 * n if family == "D" else n


_Built = tuple[NDArray[np.int64], NDArray[np.int64] | None]


def _from_permutations(permutations: NDArray[np.int64]) -> _Built:
    degree = permutations.shape[1]
    codes = permutations @ (degree ** np.arange(degree, dtype=np.int64))
    sorter = np.argsort(codes)
    # (a then b)[i] = b[a[i]], for all pairs at once
    composed = permutations[:, permutations].transpose(1, 0, 2)
    wanted = composed @ (degree ** np.arange(degree, dtype=np.int64))
    return sorter[np.searchsorted(codes, wanted, sorter=sorter)], permutations


def _symmetric(n: int) -> _Built:
    return _from_permutations(np.array(list(itertools.permutations(range(n))), dtype=np.int64))


def _alternating(n: int) -> _Built:
    permutations = np.array(list(itertools.permutations(range(n))), dtype=np.int64)
    above = np.triu_indices(n, 1)
    inversions = (permutations[:, above[0]] > permutations[:, above[1]]).sum(1)
    return _from_permutations(permutations[inversions % 2 == 0])


def _cyclic(n: int) -> _Built:
    i = np.arange(n, dtype=np.int64)
    table = (i[:, None] + i) % n
    return table, table.copy() if n <= 64 else None


def _dihedral(n: int) -> _Built:
    # Element k + n f is the map i -> (-1)^f i + k on Z_n: f = 0 turns, f = 1 mirrors.
    k, f = np.tile(np.arange(n), 2), np.repeat([0, 1], n)
    sign = 1 - 2 * f
    turned = (sign[None, :] * k[:, None] + k[None, :]) % n
    table = turned + n * (f[:, None] ^ f[None, :])
    # On fewer than three corners some mirror moves nothing, and the permutations would not tell elements apart.
    corners = (sign[:, None] * np.arange(n) + k[:, None]) % n if n >= 3 else None
    return table.astype(np.int64), corners


def _quaternion(n: int) -> _Built:
    # Unit u in {1, i, j, k} with sign s is u + 4 s; "a, then b" multiplies by b from the left, like matrices do.
    unit = np.array([[0, 1, 2, 3], [1, 0, 3, 2], [2, 3, 0, 1], [3, 2, 1, 0]])
    negative = np.array([[0, 0, 0, 0], [0, 1, 0, 1], [0, 1, 1, 0], [0, 0, 1, 1]])
    u, s = np.tile(np.arange(4), 2), np.repeat([0, 1], 4)
    left, right = u[None, :], u[:, None]
    return (unit[left, right] + 4 * (negative[left, right] ^ s[None, :] ^ s[:, None])).astype(np.int64), None


def _product(first: NDArray[np.int64], second: NDArray[np.int64]) -> NDArray[np.int64]:
    n = len(second)
    table = first[:, None, :, None] * n + second[None, :, None, :]
    return table.reshape(len(first) * n, len(first) * n)


_BUILDERS = {"Z": _cyclic, "S": _symmetric, "A": _alternating, "D": _dihedral, "Q": _quaternion}
