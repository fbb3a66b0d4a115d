"""Breadth-first search through network and task together, from the start over all words that can come."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.machine import Interner, Machine, Symbols, Tokens
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["Points", "Reached", "explore", "parts"]

_CELLS = 1 << 22  # numbers in one batch of successors


class Points(NamedTuple):
    """Read-outs to check: the state after, the token, the right answer; the last layer's input; the state before.

    All (P,), states and inputs by number.
    """

    after: Tokens
    tokens: Tokens
    answers: Tokens
    inputs: Tokens
    before: Tokens


class Reached(NamedTuple):
    """What was found. State 0 is the start.

    states (S, width) are the network's symbols, task (S,) the automaton's states; parents and letters (S,) lead back.
    `first_inputs` are the numbers of the last layer's inputs at a first token, `inputs` those at others, where what is
    not tracked is no longer zero. `finished` is false where the limit was met.
    """

    states: Symbols
    task: Tokens
    parents: Tokens
    letters: Tokens
    points: Points
    inputs: Tokens
    first_inputs: Tokens
    finished: bool

    def word(self, state: int) -> list[int]:
        """A shortest word to a state."""
        letters = []
        while state:
            letters.append(int(self.letters[state]))
            state = int(self.parents[state])
        return letters[::-1]


def explore(machine: Machine, automaton: Automaton, limit: int) -> Iterator[Reached]:
    """All reachable states, level by level of word length: yields what is known after each, with new `points` only.

    Ends when nothing is new, or when there are more than `limit` states.
    """
    states, task = machine.start(), np.array([automaton.start])
    parents, letters = np.array([-1]), np.array([-1])
    interner, seen = Interner(), Interner()
    interner.add(_rows(states, task))
    inputs: set[int] = set()
    first_inputs: set[int] = set()
    frontier, finished = np.array([0]), True
    while len(frontier) and finished:
        begun, level = len(states), []
        for part in parts(frontier, automaton.vocab_size * (machine.width + 1), _CELLS):
            place, tokens = np.nonzero(automaton.step[task[part]] >= 0)
            before = part[place]
            after, numbers = machine.advance(states[before], tokens)
            came = automaton.step[task[before], tokens]
            which, new = interner.add(_rows(after, came))
            (first_inputs if begun == 1 else inputs).update(np.unique(numbers).tolist())
            if (which == 0).any():  # from the start on, once more, with whatever was written in between
                inputs |= first_inputs
            states, task = np.concatenate([states, after[new]]), np.concatenate([task, came[new]])
            parents, letters = np.concatenate([parents, before[new]]), np.concatenate([letters, tokens[new]])
            answers = automaton.output[task[before], tokens]
            asked = np.flatnonzero(answers != IGNORE)
            first = asked[seen.add(np.stack([which, tokens, answers], 1)[asked].astype(np.int32))[1]]
            level.append(Points(which[first], tokens[first], answers[first], numbers[first], before[first]))
            if len(states) > limit:
                finished = False
                break
        points = Points(*map(np.concatenate, zip(*level, strict=True)))
        later, earlier = np.array(sorted(inputs), dtype=np.int64), np.array(sorted(first_inputs), dtype=np.int64)
        yield Reached(states, task, parents, letters, points, later, earlier, finished)
        frontier = np.arange(begun, len(states))


def parts(rows: NDArray[np.int64], width: int, cells: int) -> Iterator[NDArray[np.int64]]:
    """`rows` in pieces, so that rows times `width` is at most `cells`."""
    size = max(1, cells // max(1, width))
    for begin in range(0, len(rows), size):
        yield rows[begin : begin + size]


def _rows(states: Symbols, task: Tokens) -> NDArray[np.int32]:
    return np.concatenate([states, task[:, None].astype(np.int32)], 1)
