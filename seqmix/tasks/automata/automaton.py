"""Tasks that are finite automata: what may come next, and what the right answer is, as tables."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from seqmix._checks import is_whole

__all__ = ["IGNORE", "Automaton"]

IGNORE = -100  # target where there is no loss
_MOST_CELLS = 1 << 24  # numbers in a table

Table = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Automaton:
    """A task as a deterministic automaton: after token x in state q comes state `step[q, x]`, answered `output[q, x]`.

    Args:
        name: of the task, for people.
        start: state before the first token.
        step: (Q, V) states, -1 where that token cannot come.
        output: (Q, V) answers right after that token, `IGNORE` where none is asked for.
        bos: token that starts every word, stands nowhere else and counts in no length, if there is one.

    Raises:
        ValueError: tables of different shapes, states or answers out of range, or a `bos` inside a word.

    Example:
        >>> from seqmix.tasks.word_problem import WordProblemExamples
        >>> parity = WordProblemExamples("Z2").automaton()
        >>> parity.answers([2, 1, 0, 1])
        [-100, 1, 1, 0]
    """

    name: str
    start: int
    step: Table = field(repr=False)
    output: Table = field(repr=False)
    bos: int | None = None

    def __post_init__(self) -> None:
        if self.step.ndim != 2 or self.step.shape != self.output.shape:
            raise ValueError(
                f"Automaton: step and output must be tables (Q, V) of one shape, got {self.step.shape} and "
                f"{self.output.shape}"
            )
        if not (self.step.min() >= -1 and self.step.max() < len(self.step) and 0 <= self.start < len(self.step)):
            raise ValueError(f"Automaton: states must be in [0, {len(self.step)}), steps may also be -1")
        answers = self.output[self.output != IGNORE]
        if len(answers) and not (answers.min() >= 0 and answers.max() < self.vocab_size):
            raise ValueError(
                f"Automaton: answers must be tokens in [0, {self.vocab_size}), or {IGNORE} where there is none"
            )
        if self.bos is not None and not self._begins(self.bos):
            raise ValueError(
                f"Automaton: bos must be the first token of every word and of no other place, got {self.bos}"
            )

    def _begins(self, bos: int) -> bool:
        """Whether words begin with this token, and no step leads to where it may come again."""
        first = np.flatnonzero(self.step[self.start] >= 0).tolist()
        return first == [bos] and not np.isin(self.step, np.flatnonzero(self.step[:, bos] >= 0)).any()

    @property
    def n_states(self) -> int:
        return self.step.shape[0]

    @property
    def vocab_size(self) -> int:
        return self.step.shape[1]

    def answers(self, word: list[int]) -> list[int]:
        """The right answer after each token of a word; a token that cannot come there is a `ValueError`."""
        state, answers = self.start, []
        for place, token in enumerate(word):
            if not 0 <= token < self.vocab_size or self.step[state, token] < 0:
                raise ValueError(f"Automaton: token {token} cannot stand at place {place} of a word of {self.name}")
            answers.append(int(self.output[state, token]))
            state = int(self.step[state, token])
        return answers

    def from_length(self, length: int) -> "Automaton":
        """The same, without answers after fewer than `length` tokens; a `bos` counts in no length.

        `ValueError` for a length that is no positive integer, or so large that the tables would be.
        """
        most = max(1, _MOST_CELLS // self.step.size)
        if not is_whole(length, 1, most):
            raise ValueError(f"Automaton.from_length: length must be an integer from 1 to {most:,}, got {length!r}")
        if length == 1:
            return self
        # State (q, c) at q * length + c: c tokens have been counted, up to length - 1, from where on answers are due.
        n, count = self.n_states, np.arange(length)
        more = np.minimum(count + 1, length - 1)
        step = np.full((n, length, self.vocab_size), -1, dtype=np.int64)
        output = np.full(step.shape, IGNORE, dtype=np.int64)
        for token in range(self.vocab_size):
            target = self.step[:, token, None]
            counted = count if token == self.bos else more
            step[:, :, token] = np.where(target >= 0, target * length + counted, -1)
        output[:, -1] = self.output
        shape = (n * length, self.vocab_size)
        name = f"{self.name} from length {length}"
        return Automaton(name, self.start * length, step.reshape(shape), output.reshape(shape), self.bos)

    def fingerprint(self) -> str:
        """A hash of all there is but the name: equal ones mean the same task."""
        digest = hashlib.sha256(f"{self.start} {self.bos} {self.step.shape}".encode())
        for table in (self.step, self.output):
            digest.update(np.ascontiguousarray(table, dtype="<i8").tobytes())
        return digest.hexdigest()
