"""What an automaton is once its tokens, its BOS and states that answer alike are taken away: letters on few states."""

from typing import NamedTuple

import numpy as np

from seqmix.tasks.automata.automaton import IGNORE, Automaton, Table

__all__ = ["Core", "core_of"]


class Core(NamedTuple):
    """The minimal automaton behind a BOS, with answers at states.

    step (Q, L) and answers (Q,) of states that are reached, 0 the start; tokens (L,) are what letters are in words.
    asked (Q,): false at a start that no letter leads back to, where nothing is answered. `complete`: every letter may
    come in every state, and is answered.
    """

    step: Table
    answers: Table
    asked: Table
    tokens: Table
    complete: bool

    @property
    def n_states(self) -> int:
        return len(self.step)


def core_of(automaton: Automaton) -> Core:
    """The core of an automaton; its states are pairs of a state and the answer that led to it, as far as words tell."""
    start = automaton.start if automaton.bos is None else int(automaton.step[automaton.start, automaton.bos])
    states: dict[tuple[int, int | None], int] = {(start, None): 0}
    rows: list[list[int]] = []
    tokens = [t for t in np.flatnonzero((automaton.step >= 0).any(0)).tolist() if t != automaton.bos]
    complete = True
    queue: list[tuple[int, int | None]] = [(start, None)]
    for state, _ in queue:
        row = []
        for token in tokens:
            after = int(automaton.step[state, token])
            if after < 0:
                row.append(-1)
                complete = False
                continue
            pair = (after, int(automaton.output[state, token]))
            complete = complete and pair[1] != IGNORE
            if pair not in states:
                states[pair] = len(states)
                queue.append(pair)
            row.append(states[pair])
        rows.append(row)
    step = np.array(rows, dtype=np.int64).reshape(len(states), len(tokens))
    answers = np.array([IGNORE if answer is None else answer for _, answer in states], dtype=np.int64)
    return _minimal(step, answers, np.array(tokens, dtype=np.int64), complete)


def _minimal(step: Table, answers: Table, tokens: Table, complete: bool) -> Core:
    """States that no word tells apart become one (Moore 1956); the start, which answers nothing, joins one that steps
    alike."""
    returns = bool((step == 0).any())
    # Nothing is answered at the start before a letter has come: a class of its own at first.
    unasked = np.arange(len(step)) == 0
    classes = np.unique(np.column_stack([answers, unasked]), axis=0, return_inverse=True)[1].ravel()
    while True:
        padded = np.append(classes, -1)  # of steps that cannot come
        finer = np.unique(np.column_stack([classes, padded[step]]), axis=0, return_inverse=True)[1].ravel()
        if finer.max() == classes.max():
            break
        classes = finer
    padded = np.append(classes, -1)
    n = int(classes.max()) + 1
    first = np.array([np.flatnonzero(classes == c)[0] for c in range(n)])
    table, told = padded[step[first]], answers[first]
    begin = int(classes[0])
    twins = [] if returns else [c for c in range(n) if c != begin and (table[c] == table[begin]).all()]
    order = [begin, *(c for c in range(n) if c != begin)]
    if twins:
        order = [twins[0], *(c for c in range(n) if c not in (begin, twins[0]))]
    place = np.full(n + 1, -1)
    place[order] = np.arange(len(order))
    asked = np.array([c != begin or returns for c in order])
    return Core(place[table[order]], told[order], asked, tokens, complete)
