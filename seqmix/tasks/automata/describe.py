"""What the transition monoid of an automaton says: groups in it, and the conditions that layers are held to.

With (e, X) an idempotent that is made by a word whose letters are exactly X, letters x, y of X and any t of the monoid,
uv being u, then v:

    P0  x e = e                                     S   x x t e = t e and x y t e = y x t e
    P   x t e = t e                                 C   x y t e = y x t e
    EL  the idempotents generate an L-trivial monoid (no two elements are left multiples of one another)
    Rt  the monoid is R-trivial

Which layer needs which, and why: docs/atlas.md.
"""

from typing import Any, NamedTuple

import numpy as np

from seqmix.tasks.automata.automaton import Automaton
from seqmix.tasks.automata.core import Core, core_of
from seqmix.tasks.automata.monoid import (
    Monoid,
    TooLargeError,
    contents,
    derived_orders,
    generated,
    idempotents,
    is_trivial,
    subgroups_of,
    table_of,
    unique_rows,
)
from seqmix.tasks.groups import Group, group

__all__ = ["Description", "describe", "group_name"]

_MOST_PAIRS = 1 << 16
_MOST_ORDER = 1024  # of a group whose table is made
_KNOWN = ("Z2xZ2", "S3", "D4", "Q8", "D5", "A4", "D6", "Z6xZ2", "S4", "A5", "S5")


class Description(NamedTuple):
    """The algebra of an automaton; None where its monoid is too large, or where some letter cannot come.

    monoid: its order, the identity included. period: least common one of all elements. groups: names, or orders, of the
    maximal subgroups. derived_length: longest of a group, None where one is not solvable. flags as above.
    """

    states: int
    letters: int
    complete: bool
    monoid: int | None
    aperiodic: bool | None
    period: int | None
    groups: tuple[str, ...] | None
    orders: tuple[int, ...] | None
    solvable: bool | None
    derived_length: int | None
    P0: bool | None
    P: bool | None
    S: bool | None
    C: bool | None
    EL: bool | None
    Rt: bool | None


def describe(task: Any, most: int = 5000) -> Description:
    """The algebra of an automaton, or of a task that is one.

    Args:
        task: an `Automaton`, or what has a method `automaton()`.
        most: elements of a monoid beyond which nothing is said.

    Raises:
        NotImplementedError: a task that is no automaton.

    Example:
        >>> from seqmix.tasks.automata import describe, named_automaton
        >>> about = describe(named_automaton("counter-2-reset"))
        >>> about.monoid, about.groups, about.P, about.S
        (4, ('Z2',), False, True)
    """
    automaton = task if isinstance(task, Automaton) else task.automaton()
    core = core_of(automaton)
    sizes = (core.n_states, len(core.tokens))
    if not core.complete:
        return Description(*sizes, False, *(None,) * 13)
    letters = unique_rows(np.ascontiguousarray(core.step.T))
    try:
        monoid = generated(letters, most)
    except TooLargeError:
        return Description(*sizes, True, *(None,) * 13)
    groups = [table_of(each) for each in subgroups_of(monoid) if len(each) <= _MOST_ORDER]
    series = [derived_orders(table) for table in groups]
    names = sorted({group_name(table) for table in groups}, key=lambda name: (len(name), name))
    solvable = all(orders[-1] == 1 for orders in series)
    period = int(np.lcm.reduce([_period(row) for row in monoid.maps]))
    length = max((len(orders) - 1 for orders in series), default=0) if solvable else None
    orders = tuple(sorted({len(table) for table in groups}))
    flags = _flags(monoid)
    return Description(
        *sizes, True, len(monoid.maps), period == 1, period, tuple(names), orders, solvable, length, *flags
    )


def _period(row: Any) -> int:
    """Of the powers of one map."""
    seen: dict[bytes, int] = {}
    power, n = row, 0
    while (key := power.tobytes()) not in seen:
        seen[key], power, n = n, row[power], n + 1
    return n - seen[key]


def _flags(monoid: Monoid) -> tuple[bool | None, ...]:
    maps, letters = monoid.maps, monoid.letters
    n, q = maps.shape
    if (np.sort(letters, 1) == np.arange(q)).all():  # a group, whose one idempotent is made by any letters
        p = n == 1
        commute = all((letters[:, x] == x[letters]).all() for x in letters)
        involutions = bool((np.take_along_axis(letters, letters, 1) == np.arange(q)).all())
        return p, p, commute and involutions, commute, True, p
    generators = maps[idempotents(monoid)]
    try:
        small = generated(generators, n + 1)
        right: bool | None = is_trivial(maps, letters, side="right")
        lower: bool | None = is_trivial(small.maps, generators, side="left")
        found = [True] * 4
        for e, used in contents(monoid, _MOST_PAIRS):
            found = [old and new for old, new in zip(found, _hold(monoid, e, sorted(used), found), strict=True)]
    except TooLargeError:
        return None, None, None, None, None, None
    return (*found, lower, right)


def _hold(monoid: Monoid, e: int, used: list[int], asked: list[bool]) -> tuple[bool, ...]:
    """P0, P, S and C for one idempotent and its letters; those that are false already are not asked again."""
    maps, letters = monoid.maps, monoid.letters
    ends = unique_rows(maps[e][maps])  # t e for all t
    p0 = asked[0] and all((maps[e][letters[x]] == maps[e]).all() for x in used)
    p = asked[1] and all((ends[:, letters[x]] == ends).all() for x in used)
    commute = (asked[2] or asked[3]) and all(
        (ends[:, letters[y][letters[x]]] == ends[:, letters[x][letters[y]]]).all() for x in used for y in used if x < y
    )
    twice = asked[2] and commute and all((ends[:, letters[x][letters[x]]] == ends).all() for x in used)
    return p0, p, twice, commute


def group_name(table: Any) -> str:
    """The name of a group among those of `seqmix.tasks.groups` with the same orders of elements, else its order.

    Orders of elements tell groups apart up to order 15, and those named here among all of their order.
    """
    n, orders = len(table), _element_orders(table)
    if n in orders:
        return f"Z{n}"
    for name in _KNOWN:
        known: Group = group(name)
        if known.order == n and _element_orders(known.table) == orders:
            return name
    return f"order {n}"


def _element_orders(table: Any) -> list[int]:
    powers, found = np.arange(len(table)), np.zeros(len(table), dtype=np.int64)
    for order in range(1, len(table) + 1):
        found[(found == 0) & (powers == 0)] = order
        powers = table[powers, np.arange(len(table))]
    return sorted(found.tolist())


def core_monoid(automaton: Automaton, most: int = 5000) -> tuple[Core, Monoid] | None:
    """The core of an automaton and its monoid, with equal letters once each; None where there is none so small."""
    core = core_of(automaton)
    if not core.complete:
        return None
    try:
        return core, generated(unique_rows(np.ascontiguousarray(core.step.T)), most)
    except TooLargeError:
        return None
