"""What constructions are given, and what they give back."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.atlas.frame import Frame, Place, placed
from seqmix.atlas.registers import Registers
from seqmix.atlas.separate import ReadOut
from seqmix.atlas.traits import Mixer
from seqmix.models import SequenceModel
from seqmix.tasks.automata import Automaton
from seqmix.tasks.automata.core import Core

__all__ = ["Cell", "Plan"]

Array = NDArray[np.float64]


class Plan(NamedTuple):
    """Weights that can be written.

    name, says: of the construction. states: what the recurrent state holds, in words. precision: in which arithmetic it
    is right at every length, or how it fails. layers: how many. exact: whether states stay copies, signs or saturated,
    or forget, at every length.
    """

    name: str
    says: str
    states: str
    precision: str
    exact: bool
    build: Callable[[], SequenceModel]
    layers: int = 1


class Cell(NamedTuple):
    """A mixer and an automaton with a BOS, and its core. Letters L, the BOS counts as the last one; V tokens.

    In a deeper model `place` says of V, R and a multiple where the layer stands; `bits` are some that do, without flips
    and with.
    """

    mixer: Mixer
    automaton: Automaton
    core: Core
    place: Callable[[int, int, int], Place] = placed
    bits: tuple[Registers | None, Registers | None] | None = None

    def frame(self, reads: int, multiple: int = 1) -> Frame:
        """The model around the layer, which says so many numbers; its width is a multiple."""
        return Frame(self.vocab_size, reads, self.place(self.vocab_size, reads, multiple))

    @property
    def vocab_size(self) -> int:
        return self.automaton.vocab_size

    @property
    def letters(self) -> int:
        return len(self.core.tokens)

    def table(self, by_letter: Array, idle: float = 0.0) -> Array:
        """(n, V) from (n, L + 1), with `idle` at tokens that are no letters."""
        values = np.full((len(by_letter), self.vocab_size), idle)
        values[:, [*self.core.tokens.tolist(), self.automaton.bos]] = by_letter
        return values

    def head(self, read: ReadOut, columns: int) -> tuple[Array, Array]:
        """Logits (V, columns) and constants (V,) of a read-out whose features are the first ones that are read."""
        logits, constants = np.zeros((self.vocab_size, columns)), np.full(self.vocab_size, -np.inf)
        logits[: len(read.weights), : read.weights.shape[1]] = read.weights
        constants[: len(read.constants)] = read.constants
        return logits, constants

    def one_hot(self) -> ReadOut:
        """The read-out of one-hot states."""
        asked = self.core.answers[self.core.asked]
        answers = np.where(self.core.asked, self.core.answers, -1)
        weights = (np.arange(int(asked.max()) + 1)[:, None] == answers).astype(np.float64)
        constants = np.where(weights.any(1), 0.0, -np.inf)
        return ReadOut(weights, constants, 1.0)

    def given(self, name: str, least: int) -> int | None:
        """A size of at least `least`: the one that was given, None if that is smaller; `least` if none was."""
        size = self.mixer.sizes.get(name, least)
        return size if size >= least else None

    def spec(self, **sizes: object) -> dict[str, object]:
        """The mixer's entry with sizes."""
        return {"name": self.mixer.name, **self.mixer.given, **sizes}
