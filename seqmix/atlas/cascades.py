"""Automata as cascades of two: a lower machine sees the letters, an upper one the letters and the lower one's state.

The lower machine is what came last (a window of two letters), one bit that letters hold, set or flip, or the cosets of
a normal subgroup. What the upper one sees are *wide letters*: a letter and the lower machine's state behind it, for a
window that of the letter before. The upper machine is bits that wide letters hold, set or flip; or the subgroup: with
r_p the least element of coset p, an element is h r_p, and x takes it to h (r_p x r_q^-1) r_q, q the coset of r_p x.
"""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from seqmix.atlas.pullbacks import group_table
from seqmix.atlas.registers import Registers, bits_over
from seqmix.tasks.automata import IGNORE, Automaton
from seqmix.tasks.automata.core import Core
from seqmix.tasks.block_sizes import subgroups
from seqmix.tasks.groups import Group

__all__ = ["Lower", "Upper", "letter_automaton", "lowers", "uppers"]

_MOST_LETTERS = {False: 4, True: 3}  # whose single bits are looked at, without flips and with
_MOST_ORDER = 24
_MOST_WIDE = 512
Table = np.ndarray


class Lower(NamedTuple):
    """step (P, L) from 0; label (P, L): the wide letter of a state before and a letter; told (W,): which answer of
    `automaton` a wide letter goes with, and letters (W,): of which letter it is made."""

    says: str
    step: Table
    label: Table
    told: Table
    letters: Table
    automaton: Automaton


class Upper(NamedTuple):
    """bits: without flips and with, by wide letters; or group: an automaton of wide letters that answers its states,
    and for each state of the whole the state of it and the wide letters, (Q,) and (Q, W), that go with it."""

    lower: Lower
    bits: tuple[Registers | None, Registers | None] | None
    group: tuple[Automaton, Table, Table] | None


def letter_automaton(name: str, step: Table, answers: Table, tokens: Table, bos: int) -> Automaton:
    """The automaton of a machine (Q, L) that starts in 0 behind a BOS, and answers (Q, L) behind its letters."""
    q, size = len(step), max(int(tokens.max()), bos, int(answers.max())) + 1
    table, output = np.full((q + 1, size), -1), np.full((q + 1, size), IGNORE)
    table[:q, tokens], output[:q, tokens], table[q, bos] = step, answers, 0
    return Automaton(name, q, table, output, bos)


def lowers(core: Core, bos: int, *, flips: bool) -> Iterator[Lower]:
    """Machines of one bit, and of what came last."""
    letters = core.step.shape[1]
    last = np.arange(letters)
    for does in itertools.product(range(3 + flips), repeat=letters if letters <= _MOST_LETTERS[flips] else 0):
        if {1, 3}.isdisjoint(does):
            continue  # it stays zero
        # To zero, to one, hold, flip.
        step = np.array([[0, 1, 0, 1], [0, 1, 1, 0]])[:, does]
        bit = letter_automaton("one bit", step, step, core.tokens, bos)
        yield Lower("one bit", step, 2 * last + step, np.arange(2 * letters) % 2, np.arange(2 * letters) // 2, bit)
    if letters * (letters + 1) <= _MOST_WIDE:
        # State 1 + y: y came last; 0: nothing did.
        before, label = np.tile(last + 1, (letters + 1, 1)), np.arange(letters + 1)[:, None] * letters + last
        wide = np.arange(letters * (letters + 1))
        window = letter_automaton("last two", before, label, core.tokens, bos)
        yield Lower("the letter before", before, label, wide, wide % letters, window)


def uppers(core: Core, bos: int, *, flips: bool) -> Iterator[Upper]:
    """Cascades of two machines for an automaton."""
    table = group_table(core)
    if table is not None and 1 < len(table) <= _MOST_ORDER and core.asked.all():
        yield from _cosets(core, table, bos)
    for lower in lowers(core, bos, flips=flips):
        every = np.arange(len(lower.told))
        found = [bits_over(core, lower.step, lower.label, every, flips=each) for each in (False, True)[: 1 + flips]]
        if any(each is not None for each in found):
            wide = len(lower.told)
            one, two = (
                None if each is None else Registers(_by_wide(each[0], wide), each[1], each[2])
                for each in (*found, None)[:2]
            )
            yield Upper(lower, (one, two), None)


def _by_wide(ops: Table, wide: int) -> Table:
    return np.broadcast_to(ops[:, None], (len(ops), wide + 1, wide))


def _cosets(core: Core, table: Table, bos: int) -> Iterator[Upper]:
    order = len(table)
    inverse = table.argmin(1)  # the identity is 0
    elements = core.step[0]
    for subgroup in subgroups(Group("letters", table)):
        inside = np.array(sorted(subgroup))
        conjugates = table[table[inverse[:, None], inside], np.arange(order)[:, None]]
        if len(inside) in (1, order) or not np.isin(conjugates, inside).all():
            continue
        least = table[inside].min(0)  # of the coset of each element
        starts, coset = np.unique(least, return_inverse=True)
        step = coset[table[np.ix_(starts, elements)]]
        count, letters = len(starts), len(elements)
        label = np.arange(letters) * count + step
        wide = np.arange(letters * count)
        lower = Lower(
            f"{count} cosets", step, label, wide % count, wide // count,
            letter_automaton("cosets", step, step, core.tokens, bos),
        )  # fmt: skip
        # What wide letters multiply by: those that lead to a coset come from one.
        times = np.zeros(len(wide), dtype=np.int64)
        for p, x in np.ndindex(label.shape):
            product = table[starts[p], elements[x]]
            times[label[p, x]] = np.searchsorted(inside, table[product, inverse[starts[step[p, x]]]])
        within = np.searchsorted(inside, table[np.ix_(inside, inside)])[:, times]
        rest = np.searchsorted(inside, table[np.arange(order), inverse[least]])
        upper = letter_automaton("subgroup", within, within, wide, len(wide))
        yield Upper(lower, None, (upper, rest, coset[:, None] == wide % count))
