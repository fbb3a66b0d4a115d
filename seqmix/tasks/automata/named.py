"""Automata by name: registers, counters, brackets, star-free examples, groups, random ones.

Answers are the states, where nothing else is said; letters are tokens 0, 1, ... in the order given here.

    flip-flop, flip-flop-k      hold, then a letter for each of k values (2)
    registers-k                 hold, then for each of k bits "set to 0" and "set to 1"; state as a binary number
    delay                       a, b; answers the letter before the last one
    first, last                 a, b; answers which came first, or the last letter
    subsequence-k               k letters; how many of them have come in order, others between
    newest-before               a, b, d; the newer of b and d at the last a (d before any)
    alternating                 a, b; is the word (ab)* so far, 1 where it is
    factor-k                    a, b; has k times a in a row come, 1 if so
    clip-d                      ), (; a counter clipped to 0 .. d
    dyck-k-d, dyck-k-d-sink     k closing, then k opening brackets, depth at most d; others cannot come or end in a sink
    counter-n-reset             add 0, ..., n - 1, then reset; the sum modulo n
    maps-n                      a cycle, a swap and a merge, which make all maps of n points
    random-Q-L-seed             a strongly connected automaton of Q states and L letters
    any group                   Z6, S5, Q8, A4xZ5, ...: the running product of all elements
    A:B, A:B:C, ...             a cascade: letters of A, whose answers are the letters of B, whose answers are told
"""

import itertools
import re
from collections.abc import Callable
from functools import cache

import numpy as np

from seqmix._suggest import unknown_name
from seqmix.tasks.automata.automaton import Automaton, Table
from seqmix.tasks.automata.tables import moore
from seqmix.tasks.groups import group

__all__ = ["list_automata", "named_automaton"]

_MOST = 2048  # states


def list_automata() -> list[str]:
    """Names of automata, with numbers in them for those of a family."""
    return [
        "flip-flop", "flip-flop-3", "registers-2", "delay", "first", "subsequence-3", "newest-before", "alternating",
        "factor-2", "clip-2", "clip-3", "dyck-1-3", "dyck-1-3-sink", "dyck-2-3", "counter-2-reset", "counter-3-reset",
        "maps-3", "random-5-2-0", "last", "flip-flop:Z2", "Z2:Z3", "Z2", "Z3", "Z5", "Z6", "D4", "Q8", "S3", "A4", "S4",
        "A5", "S5",
    ]  # fmt: skip


@cache
def named_automaton(name: str, bos: bool = True) -> Automaton:
    """The automaton of that name, with a BOS in front or without.

    Raises:
        ValueError: an unknown name, with the nearest ones, or sizes out of range.

    Example:
        >>> from seqmix.tasks.automata import named_automaton
        >>> named_automaton("clip-2", bos=False).answers([1, 1, 1, 0])
        [1, 2, 2, 1]
    """
    if not isinstance(name, str):
        raise ValueError(f"automaton: name must be a string such as 'flip-flop', got {name!r}")
    below, *others = name.split(":")
    built = _built(below)
    for above in others:
        built = _cascade(below, built, above, _built(above))
        below = f"{below}:{above}"
    start, step, output = built
    return moore(name, start, step, output, bos)


_Built = tuple[int, Table, Table]  # start, steps (Q, L), answers of states (Q,)


def _built(name: str) -> _Built:
    for pattern, make in _FAMILIES.items():
        if found := re.fullmatch(pattern, name):
            return make(*(int(each) for each in found.groups() if each is not None))
    try:
        table = group(name).table
    except ValueError:
        raise unknown_name("automaton", name, list_automata()) from None
    return 0, table, np.arange(len(table))


def _cascade(below: str, lower: _Built, above: str, upper: _Built) -> _Built:
    (start, low, told), (begins, high, answers) = lower, upper
    if told.max() >= high.shape[1]:
        raise ValueError(
            f"automaton: in {below}:{above} answers must be letters, got answers up to {told.max()}, and "
            f"{high.shape[1]} letters of {above}"
        )
    states = _states(f"{below}:{above}", len(low) * len(high))
    p, q = np.divmod(states, len(high))
    after, then = low[p], high[q[:, None], told[low][p]]  # (P Q, L) each
    return start * len(high) + begins, np.where((after < 0) | (then < 0), -1, after * len(high) + then), answers[q]


def _states(name: str, count: int) -> Table:
    if not 1 <= count <= _MOST:
        raise ValueError(f"automaton: {name} must have from 1 to {_MOST:,} states")
    return np.arange(count)


def _flip_flop(k: int = 2) -> _Built:
    q = _states("flip-flop-k", k)
    return 0, np.column_stack([q, *(np.full(k, value) for value in range(k))]), q


def _registers(k: int) -> _Built:
    q = _states("registers-k", 2 ** min(k, 12))
    sets = [(q & ~(1 << bit)) | (value << bit) for bit in range(k) for value in (0, 1)]
    return 0, np.column_stack([q, *sets]), q


def _delay() -> _Built:
    q = np.arange(4)  # the letter before, then the last
    return 0, np.column_stack([(q & 1) * 2, (q & 1) * 2 + 1]), q >> 1


def _subsequence(k: int) -> _Built:
    q = _states("subsequence-k", k + 1)
    return 0, np.column_stack([q + (q == letter) for letter in range(k)]), q


def _newest_before() -> _Built:
    newest, told = np.divmod(np.arange(4), 2)
    # After a, what is newest is told; b and d only become the newest.
    return 0, np.column_stack([2 * newest + newest, 2 + told, told]), told


def _factor(k: int) -> _Built:
    q = _states("factor-k", k + 1)
    return 0, np.column_stack([np.minimum(q + 1, k), np.where(q == k, k, 0)]), (q == k).astype(np.int64)


def _clip(d: int) -> _Built:
    q = _states("clip-d", d + 1)
    return 0, np.column_stack([np.maximum(q - 1, 0), np.minimum(q + 1, d)]), q


def _dyck(k: int, d: int, sink: bool) -> _Built:
    _states("dyck-k-d", sum(k**i for i in range(min(d, 11) + 1)) + sink)
    stacks = [stack for depth in range(d + 1) for stack in itertools.product(range(k), repeat=depth)]
    number = {stack: i for i, stack in enumerate(stacks)}
    step = np.full((len(stacks) + sink, 2 * k), len(stacks) if sink else -1)
    for stack, q in number.items():
        if stack:
            step[q, stack[-1]] = number[stack[:-1]]
        for bracket in range(k):
            if len(stack) < d:
                step[q, k + bracket] = number[*stack, bracket]
    return 0, step, np.arange(len(step))


def _counter(n: int) -> _Built:
    q = _states("counter-n-reset", n)
    return 0, np.column_stack([*((q + i) % n for i in range(n)), np.zeros_like(q)]), q


def _maps(n: int) -> _Built:
    q = _states("maps-n", n)
    swap, merge = q.copy(), q.copy()
    swap[:2], merge[:2] = q[:2][::-1], 0
    return 0, np.column_stack([(q + 1) % n, swap, merge]), q


def _random(states: int, letters: int, seed: int) -> _Built:
    q, draw = _states("random-Q-L-seed", states), np.random.default_rng(seed)
    if letters < 1 or (letters == 1 and states > 1) or states * letters > 1 << 16:
        raise ValueError(f"automaton: random-Q-L-seed must have 2 letters or more, and not 65,536 steps, got {letters}")
    for _ in range(10_000):
        step = draw.integers(states, size=(states, letters))
        reach = np.eye(states, dtype=bool)
        reach[q[:, None], step] = True
        for _ in range(states.bit_length()):
            reach = (reach.astype(np.int64) @ reach) > 0
        if reach.all():
            return 0, step, q
    raise ValueError(f"automaton: random-{states}-{letters}-{seed}: none of 10,000 draws was strongly connected")


_FAMILIES: dict[str, Callable[..., _Built]] = {
    r"flip-flop": _flip_flop,
    r"flip-flop-(\d{1,4})": _flip_flop,
    r"registers-(\d{1,2})": _registers,
    r"delay": _delay,
    r"first": lambda: (0, np.array([[1, 2], [1, 1], [2, 2]]), np.arange(3)),
    r"last": lambda: (0, np.array([[0, 1], [0, 1]]), np.arange(2)),
    r"subsequence-(\d{1,3})": _subsequence,
    r"newest-before": _newest_before,
    r"alternating": lambda: (0, np.array([[1, 2], [2, 0], [2, 2]]), np.array([1, 0, 0])),
    r"factor-(\d{1,3})": _factor,
    r"clip-(\d{1,3})": _clip,
    r"dyck-(\d{1,2})-(\d{1,2})": lambda k, d: _dyck(k, d, False),
    r"dyck-(\d{1,2})-(\d{1,2})-sink": lambda k, d: _dyck(k, d, True),
    r"counter-(\d{1,3})-reset": _counter,
    r"maps-(\d{1,2})": _maps,
    r"random-(\d{1,3})-(\d{1,3})-(\d{1,6})": _random,
}
