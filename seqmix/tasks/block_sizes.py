"""How large the blocks of a block-diagonal linear RNN must be to track a group: a question about the group alone.

One layer, gates that see the current token only, transitions that lose nothing. Softmax gates then are permutation
matrices of m points and gates of the L1 kind signed ones, so that the blocks together walk in a subgroup H of a power
of S_m, or of Z2 wr S_m, and the elements of G are classes of states: G = H / K.

- A read-out of any kind: G divides a power of S_m (it is a quotient of a subgroup). By Birkhoff that is so exactly if
  every law w(x_1, ..., x_r) = 1 of S_m, in as many letters as generate G, holds in G. All laws at once are one
  subgroup of a power of S_m, the free group of its variety, and Schreier-Sims compares two orders.
- A linear read-out: the answer is the largest of functions f_y(state) that are sums over blocks. Averaged over H they
  become one function on H that K leaves as it is, so that only those representations of H count that are ones of G.
  On the points H / S of a block K turns them into G / (SK / K), no more points than before: G is then a subgroup of a
  power of S_m, that is, the largest normal subgroups in the stabilisers of at most m points have nothing in common.
  With signs the same holds with characters S -> {1, -1}, whose kernels have half the order of S.

Q8 shows the difference: it divides the square of D4, a group of permutations of four points, but acts faithfully on no
fewer than eight. See docs/certificates.md.
"""

import itertools
import math
from collections.abc import Iterator
from functools import cache

import numpy as np
from numpy.typing import NDArray

from seqmix.tasks.groups import Group, group

__all__ = ["smallest_block", "subgroups"]

READ_OUTS = ("linear", "any")
_Permutation = tuple[int, ...]


@cache
def smallest_block(name: str, *, signed: bool = False, read_out: str = "linear") -> int:
    """The smallest m with which blocks of size m track the group exactly, any number of them.

    Args:
        name: of the group, as in `seqmix.tasks.groups.group`.
        signed: blocks may be signed permutations (gates divided by the sum of their absolute values), or permutations
            only (softmax).
        read_out: `"linear"`, or `"any"` for one that may multiply what blocks say (an MLP).

    Raises:
        ValueError: an unknown group or read-out.

    Example:
        >>> from seqmix.tasks.block_sizes import smallest_block
        >>> [smallest_block(name) for name in ("Z2", "S4", "Q8")], smallest_block("S4", signed=True)
        ([2, 4, 8], 3)
    """
    if read_out not in READ_OUTS:
        raise ValueError(f"smallest_block: read_out must be one of {', '.join(READ_OUTS)}, got {read_out!r}")
    g = group(name)
    enough = _smallest_embedding(g, signed)
    if read_out == "linear":
        return enough
    return next(m for m in range(1, enough + 1) if m == enough or _divides(g, m, signed))


def subgroups(g: Group) -> list[frozenset[int]]:
    """All subgroups, as sets of elements; smaller ones come first."""
    table = g.table.tolist()
    cyclic = {_generated(table, (element,)): element for element in range(g.order)}
    generators: dict[frozenset[int], tuple[int, ...]] = {frozenset([0]): ()}
    frontier = list(generators)
    while frontier:
        larger = []
        for subgroup in frontier:
            for element in cyclic.values():
                if element in subgroup:
                    continue
                basis = (*generators[subgroup], element)
                joined = _generated(table, basis)
                if joined not in generators:
                    generators[joined] = basis
                    larger.append(joined)
        frontier = larger
    return sorted(generators, key=lambda subgroup: (len(subgroup), sorted(subgroup)))


def _generated(table: list[list[int]], generators: tuple[int, ...]) -> frozenset[int]:
    # Lists, not arrays: groups are small and there are thousands of calls.
    reached, frontier = {0}, [0]
    while frontier:
        element = frontier.pop()
        for generator in generators:
            product = table[element][generator]
            if product not in reached:
                reached.add(product)
                frontier.append(product)
    return frozenset(reached)


def _smallest_embedding(g: Group, signed: bool) -> int:
    """The smallest m with g a subgroup of a power of S_m, or of the signed permutations of m points."""
    classes, every = _conjugacy_classes(g), subgroups(g)
    by_size: dict[int, list[frozenset[int]]] = {}
    for kernel in every:
        points = g.order // len(kernel)
        if signed and any(len(s) == 2 * len(kernel) and kernel < s for s in every):
            points //= 2  # the kernel of a sign on a subgroup of half the index
        by_size.setdefault(points, []).append(kernel)
    unseen = frozenset(range(g.order))
    for m in sorted(by_size):
        for kernel in by_size[m]:
            # The largest normal subgroup in it is the union of the classes that lie in it.
            unseen &= frozenset().union(*(each for each in classes if each <= kernel))
        if len(unseen) == 1:
            return m
    raise AssertionError("the regular representation is faithful")


def _conjugacy_classes(g: Group) -> list[frozenset[int]]:
    inverse = (g.table == 0).argmax(1)
    classes: dict[int, frozenset[int]] = {}
    for x in range(g.order):
        if x not in classes:
            conjugates = frozenset(g.table[g.table[inverse, x], np.arange(g.order)].tolist())
            classes |= dict.fromkeys(conjugates, conjugates)
    return list(dict.fromkeys(classes.values()))


def _divides(g: Group, m: int, signed: bool) -> bool:
    """Whether g is a quotient of a subgroup of a power of S_m, or of the signed permutations of m points."""
    from sympy.combinatorics import Permutation, PermutationGroup

    basis = g.generators()
    points = _signed_permutations(m) if signed else [tuple(p) for p in itertools.permutations(range(m))]
    array = np.array(points)
    if _exponent(array) % _exponent(g.table):  # the law x^e = 1, which is cheap and settles most cases
        return False
    places = list(_up_to_conjugacy(points, len(basis)))
    laws, both = [], []
    for index, generator in enumerate(basis):
        moved = np.concatenate([np.array(place[index]) + i * len(points[0]) for i, place in enumerate(places)])
        laws.append(Permutation(moved.tolist()))
        both.append(Permutation([*moved.tolist(), *(len(moved) + g.table[:, generator]).tolist()]))
    # The generators of g are an image of those of the free group of the variety if nothing else comes with them.
    return bool(PermutationGroup(both).order() == PermutationGroup(laws).order())


def _exponent(permutations: NDArray[np.int64]) -> int:
    """The smallest e with p^e = 1 for all permutations (n, points), or for a group given as its table."""
    powers, orders, e = permutations, np.zeros(len(permutations), dtype=np.int64), 0
    while not orders.all():
        e += 1
        orders[(orders == 0) & (powers == np.arange(powers.shape[1])).all(1)] = e
        powers = np.take_along_axis(permutations, powers, axis=1)
    return math.lcm(*orders.tolist())


def _signed_permutations(m: int) -> list[_Permutation]:
    """Signed permutations of m points as permutations of 2m: point i with sign s is i + m s."""
    found = []
    for p in itertools.permutations(range(m)):
        for signs in itertools.product((0, 1), repeat=m):
            found.append(tuple(p[i] + m * (s ^ signs[i]) for s in (0, 1) for i in range(m)))
    return found


def _up_to_conjugacy(points: list[_Permutation], letters: int) -> Iterator[tuple[_Permutation, ...]]:
    """One of each class of `letters` permutations that are conjugated together."""
    array: NDArray[np.int64] = np.array(points)
    inverse = np.argsort(array, axis=1)
    seen: set[tuple[_Permutation, ...]] = set()
    for values in itertools.product(points, repeat=letters):
        if values not in seen:
            yield values
            conjugated = [np.take_along_axis(array, np.array(p)[inverse], axis=1).tolist() for p in values]
            seen.update(tuple(map(tuple, together)) for together in zip(*conjugated, strict=True))
