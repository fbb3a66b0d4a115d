"""The transition monoid of an automaton: the maps of states that words make, with products uv = u, then v.

A map m is a row (Q,): state q goes to m[q], and (u, then v)[q] is v[u[q]].
"""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.tasks.automata.automaton import Table

__all__ = ["Monoid", "TooLargeError", "contents", "generated", "is_trivial", "subgroups_of", "unique_rows"]

Rows = NDArray[np.int64]


class TooLargeError(ValueError):
    """More elements than were asked for."""


class Monoid(NamedTuple):
    """maps (M, Q), 0 the identity; right (M, L): the element, then a letter; words: a shortest one for each."""

    maps: Rows
    right: Rows
    words: list[tuple[int, ...]]

    @property
    def letters(self) -> Rows:
        return self.maps[self.right[0]]

    def number(self, row: Rows) -> int:
        """Which element a map is."""
        return int(np.flatnonzero((self.maps == row).all(1))[0])


def generated(letters: Rows, most: int) -> Monoid:
    """The monoid that maps (L, Q) generate; `TooLargeError` beyond `most` elements."""
    count, q = letters.shape
    identity = np.arange(q)
    number, maps, right, words = {identity.tobytes(): 0}, [identity], [], [()]
    for place, row in enumerate(maps):
        products = letters[:, row] if count else np.zeros((0, q), dtype=np.int64)
        line = []
        for letter, product in enumerate(np.ascontiguousarray(products)):
            key = product.tobytes()
            if key not in number:
                if len(maps) >= most:
                    raise TooLargeError(f"monoid: more than {most:,} elements")
                number[key] = len(maps)
                maps.append(product)
                words.append((*words[place], letter))  # type: ignore[arg-type]
            line.append(number[key])
        right.append(line)
    return Monoid(np.array(maps), np.array(right).reshape(len(maps), count), words)  # type: ignore[arg-type]


def unique_rows(rows: Rows) -> Rows:
    return np.unique(rows, axis=0)


def idempotents(monoid: Monoid) -> Rows:
    """Numbers of the elements with e e = e."""
    maps = monoid.maps
    return np.flatnonzero((np.take_along_axis(maps, maps, 1) == maps).all(1))


def contents(monoid: Monoid, most: int) -> Iterator[tuple[int, frozenset[int]]]:
    """Idempotents with the letters of the words that make them: every pair (e, X), X not empty, X exactly those.

    Of a group only the identity with all letters, the pair that asks most. Raises `TooLargeError` beyond `most` pairs
    of an element and a set.
    """
    count = monoid.right.shape[1]
    if (np.sort(monoid.letters, 1) == np.arange(monoid.maps.shape[1])).all():
        yield 0, frozenset(range(count))
        return
    idempotent = set(idempotents(monoid).tolist())
    seen = {(0, 0)}
    for element, mask in (queue := [(0, 0)]):
        for letter in range(count):
            pair = (int(monoid.right[element, letter]), mask | 1 << letter)
            if pair not in seen:
                if len(seen) >= most:
                    raise TooLargeError(f"monoid: more than {most:,} pairs of an element and letters")
                seen.add(pair)
                queue.append(pair)
    for element, mask in queue:
        if mask and element in idempotent:
            yield element, frozenset(letter for letter in range(count) if mask >> letter & 1)


def is_trivial(maps: Rows, generators: Rows, *, side: str) -> bool:
    """Whether no two elements of a monoid (N, Q) reach one another by multiplying with generators (k, Q) on a side."""
    number = {row.tobytes(): i for i, row in enumerate(np.ascontiguousarray(maps))}
    after: list[set[int]] = []
    for i, row in enumerate(maps):
        products = generators[:, row] if side == "right" else row[generators]
        after.append({number[p.tobytes()] for p in np.ascontiguousarray(products)} - {i})
    # A graph without loops has no circle exactly if its nodes can be taken away one by one that nothing leads to.
    degree = np.zeros(len(maps), dtype=np.int64)
    for targets in after:
        degree[list(targets)] += 1
    free = np.flatnonzero(degree == 0).tolist()
    for node in free:
        for target in after[node]:
            degree[target] -= 1
            if degree[target] == 0:
                free.append(target)
    return len(free) == len(maps)


def subgroups_of(monoid: Monoid) -> Iterator[Rows]:
    """Maximal subgroups as permutations (order, points), one for each idempotent with more than one element."""
    maps = monoid.maps
    rank = np.array([len(np.unique(row)) for row in maps])
    seen: set[bytes] = set()
    for e in idempotents(monoid).tolist():
        image = np.unique(maps[e])
        if len(image) < 2:
            continue
        # Elements of e M e of e's rank permute its image.
        around = maps[e][maps[:, maps[e]]]
        inner = unique_rows(around[rank >= rank[e]][:, image])
        inner = inner[[len(np.unique(row)) == len(image) for row in inner]]
        if len(inner) < 2:
            continue
        points = np.searchsorted(image, inner)
        key = np.ascontiguousarray(points).tobytes()
        if key not in seen:
            seen.add(key)
            yield points


def table_of(permutations: Rows) -> Table:
    """The multiplication table of permutations (order, points) that are a group: a, then b, with 0 the identity."""
    identity = np.arange(permutations.shape[1])
    first = int(np.flatnonzero((permutations == identity).all(1))[0])
    rows = np.ascontiguousarray(np.concatenate([permutations[first : first + 1], np.delete(permutations, first, 0)]))
    number = {row.tobytes(): i for i, row in enumerate(rows)}
    return np.array([[number[p.tobytes()] for p in np.ascontiguousarray(rows[:, a])] for a in rows])


def derived_orders(table: Table) -> list[int]:
    """Orders of a group and of its derived series, down to where it stays as it is."""
    inverse = (table == 0).argmax(1)
    members, orders = np.arange(len(table)), [len(table)]
    while True:
        a, b = np.meshgrid(members, members, indexing="ij")
        commutators = np.unique(table[table[inverse[a], inverse[b]], table[a, b]])
        members = closure(table, commutators.tolist())
        if len(members) == orders[-1]:
            return orders
        orders.append(len(members))


def closure(table: Table, elements: Iterable[int]) -> Table:
    """The subgroup that elements generate, sorted."""
    reached = {0}
    basis = list(elements)
    for element in (frontier := [0]):
        for generator in basis:
            product = int(table[element, generator])
            if product not in reached:
                reached.add(product)
                frontier.append(product)
    return np.array(sorted(reached))
