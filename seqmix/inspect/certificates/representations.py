"""Which blocks carry a representation of the group that a task is about.

Letters of the task that permute its states generate a group G; g then x is what x does after g. A block whose letters
permute its entries, perhaps with signs, has matrices R(x), h_t = R(x_t) h_{t-1}. It carries a homomorphism if
R(g then x) = R(g) R(x) as matrices, and an anti-homomorphism if R(g then x) = R(x) R(g), which is what follows a
running product; with commuting matrices both.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.machine import Machine
from seqmix.tasks.automata import Automaton
from seqmix.tasks.groups import MAX_ORDER

__all__ = ["BlockReport", "Letters", "block_reports", "letters_of"]


class BlockReport(NamedTuple):
    """What a block of the first layer does with the letters of the task.

    kind: `homomorphism`, `anti-homomorphism`, `both`, `permutations` (the letters permute entries, but not as the group
    has it), or `none`. kernel: how many elements of the group act as the identity, 1 for a faithful representation, 0
    where there is none. degree: how many entries some letter moves. signed: whether some letter changes a sign.
    """

    block: int
    kind: str
    kernel: int
    degree: int
    signed: bool

    @property
    def faithful(self) -> bool:
        return self.kernel == 1

    @property
    def carries(self) -> bool:
        """Whether it follows the running product: an anti-homomorphism that is not trivial."""
        return self.kind in ("anti-homomorphism", "both") and self.degree > 0


class Letters(NamedTuple):
    """Tokens (n,) that generate a group of permutations, with `times[g, i]` the element g, then letter i; 0 is 1."""

    tokens: NDArray[np.int64]
    times: NDArray[np.int64]


def letters_of(automaton: Automaton) -> Letters | None:
    """The group of a task whose letters permute its states (those after a BOS); None for another task."""
    core = np.arange(automaton.n_states)
    tokens = np.flatnonzero((automaton.step >= 0).any(0))
    if automaton.bos is not None:
        core, tokens = core[core != automaton.start], tokens[tokens != automaton.bos]
    step = automaton.step[np.ix_(core, tokens)]
    place = np.full(automaton.n_states, -1)
    place[core] = np.arange(len(core))
    if not len(tokens) or (step < 0).any() or (place[step] < 0).any():
        return None
    letters = place[step].T
    if (np.sort(letters, 1) != np.arange(len(core))).any():
        return None
    elements, numbers, times = [tuple(range(len(core)))], {tuple(range(len(core))): 0}, []
    for element in elements:
        row = []
        for letter in letters:
            product = tuple(letter[list(element)].tolist())
            if product not in numbers:
                if len(elements) == MAX_ORDER:
                    return None
                numbers[product] = len(elements)
                elements.append(product)
            row.append(numbers[product])
        times.append(row)
    return Letters(tokens, np.array(times))


def block_reports(machine: Machine, letters: Letters) -> tuple[BlockReport, ...]:
    """One report for each block of the first layer."""
    layer, choices = machine.network.layers[0], machine.known[0].choices
    shape = (len(letters.tokens), layer.n_blocks, layer.m)
    source = choices.source[letters.tokens].reshape(shape) - np.arange(layer.n_blocks)[:, None] * layer.m
    source = np.where(choices.source[letters.tokens].reshape(shape) < 0, -1, source)
    sign = choices.sign[letters.tokens].reshape(shape)
    return tuple(_report(block, source[:, block], sign[:, block], letters) for block in range(layer.n_blocks))


def _report(block: int, source: NDArray[Any], sign: NDArray[Any], letters: Letters) -> BlockReport:
    points = _permuted(source)
    if not len(points):
        return BlockReport(block, "none", 0, 0, False)
    place = np.full(source.shape[1], -1)
    place[points] = np.arange(len(points))
    reads, signs = place[source[:, points]], sign[:, points].astype(np.int64)
    moved = ((reads != np.arange(len(points))) | (signs < 0)).any(0)
    kinds, kernel = [], 0
    for kind in ("homomorphism", "anti-homomorphism"):
        matrices = _extended(reads, signs, letters, anti=kind != "homomorphism")
        if matrices is not None:
            kinds.append(kind)
            still = (matrices[0] == np.arange(len(points))).all(1) & (matrices[1] > 0).all(1)
            kernel = int(still.sum())
    name = "both" if len(kinds) == 2 else kinds[0] if kinds else "permutations"
    return BlockReport(block, name, kernel, int(moved.sum()), bool((signs < 0).any()))


def _permuted(source: NDArray[Any]) -> NDArray[np.int64]:
    """Entries on which all letters act as permutations: row i of a letter reads entry `source[letter, i]`, or -1.

    The union of the sets {everything that i reads, over any word} that every letter maps onto themselves.
    """
    m, points = source.shape[1], set()
    for entry in range(m):
        orbit, queue = {entry}, [entry]
        while queue and -1 not in orbit:
            fresh = set(source[:, queue.pop()].tolist()) - orbit
            orbit |= fresh
            queue.extend(fresh)
        if -1 not in orbit and all(len(set(row[list(orbit)].tolist())) == len(orbit) for row in source):
            points |= orbit
    return np.array(sorted(points), dtype=np.int64)


def _extended(
    reads: NDArray[Any], signs: NDArray[Any], letters: Letters, *, anti: bool
) -> tuple[NDArray[Any], NDArray[Any]] | None:
    """R(g) for all elements as what every row reads and with which sign; None if letters contradict each other."""
    order = len(letters.times)
    where, flip = np.zeros((order, reads.shape[1]), int), np.ones((order, reads.shape[1]), int)
    where[0] = np.arange(reads.shape[1])
    known = np.zeros(order, dtype=bool)
    known[0] = True
    # Elements are numbered in the order of a search from 1, so that g is known before g then x.
    for g in range(order):
        for x, product in enumerate(letters.times[g]):
            # (A B h)_i = (B h) at what row i of A reads.
            if anti:
                read, sign = where[g][reads[x]], signs[x] * flip[g][reads[x]]
            else:
                read, sign = reads[x][where[g]], flip[g] * signs[x][where[g]]
            if not known[product]:
                where[product], flip[product], known[product] = read, sign, True
            elif (where[product] != read).any() or (flip[product] != sign).any():
                return None
    return where, flip
