"""Orthogonal representations of the group that letters make: matrices that turn and mirror as it multiplies.

Irreducible real ones are the invariant subspaces of the regular one, found as eigenspaces of a random symmetric matrix
that commutes with it. Products are "a, then b": rho(a then b) = rho(b) rho(a).
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["Representation", "faithful", "irreducible", "reflections", "separating_vector"]

Array = NDArray[np.float64]
_MOST_ORDER = 128


class Representation(NamedTuple):
    """matrices (order, d, d) of all elements; moved (order,): d minus the dimension of what an element fixes."""

    matrices: Array
    moved: NDArray[np.int64]

    @property
    def kernel(self) -> NDArray[np.bool_]:
        return self.moved == 0


def irreducible(table: NDArray[np.int64]) -> list[Representation]:
    """Irreducible real representations that are not trivial, small ones first, each kind once for most seeds.

    table (n, n): a, then b. `ValueError` for more than 128 elements.
    """
    n = len(table)
    if n > _MOST_ORDER:
        raise ValueError(f"irreducible: group must have at most {_MOST_ORDER} elements, got {n}")
    # rho(b) sends the unit vector of a to that of a, then b.
    random = np.random.default_rng(0).normal(size=(n, n))
    commuting = np.zeros((n, n))
    for b in range(n):
        commuting += random[np.ix_(table[:, b], table[:, b])]
    values, vectors = np.linalg.eigh(commuting + commuting.T)
    ends = [0, *(np.flatnonzero(np.diff(values) > 1e-8 * np.ptp(values)) + 1).tolist(), n]
    found: list[Representation] = []
    traces: list[Array] = []
    for begin, end in pairwise(ends):
        basis = vectors[:, begin:end]
        # (rho(b) basis)[a then b] = basis[a]
        matrices = np.array([basis[table[:, b]].T @ basis for b in range(n)])
        trace = np.trace(matrices, axis1=1, axis2=2)
        if any(len(trace) == len(t) and np.abs(trace - t).max() < 1e-6 for t in traces):
            continue
        traces.append(trace)
        moved = np.array([np.linalg.matrix_rank(m - np.eye(end - begin), tol=1e-6) for m in matrices])
        if moved.any():
            found.append(Representation(matrices, moved))
    return sorted(found, key=lambda r: r.matrices.shape[1])


def faithful(table: NDArray[np.int64], letters: Sequence[int], most_moved: int) -> list[Representation] | None:
    """Few irreducible representations in which no letter moves more than so many dimensions, and which together tell
    all elements apart; None where there are none."""
    good = [r for r in irreducible(table) if r.moved[list(letters)].max() <= most_moved]
    for each in good:
        if each.kernel.sum() == 1:
            return [each]
    chosen: list[Representation] = []
    kernel = np.ones(len(table), dtype=bool)
    for each in good:
        if (kernel & each.kernel).sum() < kernel.sum():
            chosen.append(each)
            kernel &= each.kernel
    for each in list(chosen):
        rest = [r for r in chosen if r is not each]
        if rest and np.all([r.kernel for r in rest], 0).sum() == 1:
            chosen = rest
    return chosen if chosen and kernel.sum() == 1 else None


def separating_vector(representation: Representation) -> Array:
    """A unit vector (d,) whose images under different matrices are far apart."""
    matrices = representation.matrices
    best: Array = np.zeros(matrices.shape[1])
    leads = -1.0
    draw = np.random.default_rng(1)
    for _ in range(200):
        q: Array = draw.normal(size=matrices.shape[1:2])
        q = q / np.sqrt(q @ q)
        products = matrices @ q @ q
        lead = float(1 - products[~representation.kernel].max())
        if lead > leads:
            best, leads = q, lead
    return best


def reflections(matrix: Array) -> list[Array]:
    """Unit vectors v_1, ..., v_k with matrix = H_k ... H_1, H_i = I - 2 v_i v_i^T, and k the dimensions it moves."""
    found: list[Array] = []
    rest = matrix.copy()
    for _ in range(len(matrix) + 1):
        moved = rest - np.eye(len(matrix))
        size = np.linalg.norm(moved, axis=0)
        if size.max() < 1e-9:
            break
        v = moved[:, size.argmax()] / size.max()
        found.append(v)
        # H rest fixes one vector more.
        rest = rest - 2 * np.outer(v, v @ rest)
    return found[::-1]
