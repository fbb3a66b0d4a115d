"""Conditions on automata that the theorems of the atlas need, beyond those of `seqmix.tasks.automata.describe`.

Letters, maps and products are those of `seqmix.tasks.automata.monoid`: uv is u, then v. Each function says whether
words are found that break a condition; where only some words are tried, what is not found may still be there.
"""

import itertools
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from seqmix.tasks.automata.monoid import Monoid, contents, idempotents, unique_rows

__all__ = [
    "alike_breaks",
    "alike_within_breaks",
    "lags_break",
    "loops_break",
    "order_matters",
    "periods",
    "same_length_periods",
]

Map = NDArray[np.int64]
_MOST_PAIRS = 1 << 16
_MOST_LOOPS = 64


def periods(maps: Map) -> list[int]:
    """The period of the powers of each map (k, Q)."""
    found = []
    for row in maps:
        seen: dict[bytes, int] = {}
        power, n = row, 0
        while (key := power.tobytes()) not in seen:
            seen[key], power, n = n, row[power], n + 1
        found.append(n - seen[key])
    return found


def same_length_periods(monoid: Monoid) -> list[int]:
    """Periods of the elements that words of one length s make, with s such that these are closed under products."""
    sets: list[frozenset[int]] = []
    now = frozenset([0])
    while now not in sets:
        sets.append(now)
        now = frozenset(monoid.right[sorted(now)].ravel().tolist())
    first, period = sets.index(now), len(sets) - sets.index(now)
    s = -(-max(first, 1) // period) * period
    return periods(monoid.maps[sorted(sets[first + (s - first) % period])])


def alike_breaks(monoid: Monoid) -> bool:
    """x t e differs from y t e for letters x, y, some t, and an idempotent e of a word that is not empty."""
    maps, letters = monoid.maps, monoid.letters
    empty = not bool((monoid.right == 0).any())  # only the empty word is the identity
    for e in idempotents(monoid).tolist():
        if e == 0 and empty:
            continue
        ends = unique_rows(maps[e][maps])
        if any((ends[:, x] != ends[:, letters[0]]).any() for x in letters[1:]):
            return True
    return False


def alike_within_breaks(monoid: Monoid) -> bool:
    """The same for letters x, y among those of the word that makes e. `TooLargeError` where there are too many."""
    maps, letters = monoid.maps, monoid.letters
    for e, used in contents(monoid, _MOST_PAIRS):
        first, *others = sorted(used)
        ends = unique_rows(maps[e][maps])
        if any((ends[:, letters[x]] != ends[:, letters[first]]).any() for x in others):
            return True
    return False


def lags_break(monoid: Monoid) -> bool:
    """For some letters x, y no word u of these two makes u x x x ... the same as u y x x ..., however often x comes."""
    maps, letters = monoid.maps, monoid.letters
    for x, y in itertools.permutations(range(len(letters)), 2):
        reached = {0}
        for element in (queue := [0]):
            for after in monoid.right[element, [x, y]].tolist():
                if after not in reached:
                    reached.add(after)
                    queue.append(after)
        power = _idempotent(letters[x])
        before = maps[sorted(reached)]
        if not (power[letters[x][before]] == power[letters[y][before]]).all(1).any():
            return True
    return False


def order_matters(monoid: Monoid) -> bool:
    """x y m differs from y x m for letters x, y and some m of a word that is not empty."""
    maps, letters = monoid.maps, monoid.letters
    ends = maps[np.unique(monoid.right)]
    return any(
        (ends[:, y[x]] != ends[:, x[y]]).any() for x, y in itertools.combinations(letters, 2)
    )  # x, then y, is y[x]


def loops_break(monoid: Monoid, window: int, kind: str) -> bool:
    """Loops of windows do not act as a diagonal layer's must, whose gates see the last `window` letters.

    For words w, Y the windows of w w w ..., and loops u, v that lead from the end of w back to it within Y, for any t
    and with e the idempotent power of w: `positive` wants u t e = t e, `signed` u u t e = t e and u v t e = v u t e,
    `complex` the last one, in states that w leads to. Some words w are tried.
    """
    for states, loops, ends in _situations(monoid, window):
        for u in loops:
            moved = u if kind == "positive" else u[u]
            if kind != "complex" and (ends[:, moved[states]] != ends[:, states]).any():
                return True
        if kind != "positive":
            for u, v in itertools.combinations(loops, 2):
                if (ends[:, v[u[states]]] != ends[:, u[v[states]]]).any():
                    return True
    return False


def _situations(monoid: Monoid, window: int) -> Iterator[tuple[Map, list[Map], Map]]:
    """States that w leads to, maps of loops behind it, and t e for all t."""
    letters = monoid.letters
    for word in _words(len(letters), window):
        cycle = word * (2 + window // len(word))
        allowed = {cycle[i : i + window] for i in range(len(word))}
        context = cycle[len(cycle) - window + 1 :]
        w = _map(letters, word)
        e = _idempotent(w)
        # Words end at a multiple of w, behind which the last letters are the context.
        before = _map(letters, word * (1 + window // len(word)))
        loops = [_map(letters, loop) for loop in _loops(context, allowed, window, len(letters), len(word))]
        yield np.unique(before), list(unique_rows(np.array(loops))), unique_rows(e[monoid.maps])


def _words(count: int, window: int) -> Iterator[tuple[int, ...]]:
    longest = 4 if count <= 3 else 2
    for n in range(1, longest + 1):
        yield from itertools.product(range(count), repeat=n)
    if window > 1:
        for x, y in itertools.islice(itertools.permutations(range(count), 2), 64):
            yield (x,) * window + (y,) * window


def _loops(
    context: tuple[int, ...], allowed: set[tuple[int, ...]], window: int, count: int, length: int
) -> list[tuple[int, ...]]:
    """Words that lead from a context back to it through allowed windows, the shortest ones."""
    found: list[tuple[int, ...]] = []
    frontier: list[tuple[int, ...]] = [()]
    for _ in range(length + 2 * window):
        longer = []
        for walk in frontier:
            for letter in range(count):
                now = (*walk, letter)
                if (*context, *now)[-window:] in allowed:
                    longer.append(now)
                    if (*context, *now)[len(now) :] == context:
                        found.append(now)
        if len(found) >= _MOST_LOOPS or len(longer) > 4 * _MOST_LOOPS:
            break
        frontier = longer
    return found[:_MOST_LOOPS] or [()]


def _idempotent(row: Map) -> Map:
    """The power e of a map with e e = e."""
    power = row
    while (power[power] != power).any():
        power = row[power]
    return power


def _map(letters: Map, word: tuple[int, ...]) -> Map:
    here = np.arange(letters.shape[1])
    for letter in word:
        here = letters[letter][here]
    return here
