"""Examples of formal languages with one answer at the end of the word (Deletang et al. 2022, 2207.02098; Grazzi et al.
2024, 2411.12537). Needs numpy and torch only.

Every word is an input of `length` tokens whose last position alone has a target. An example is a pure function of
(seed, split, its number, length): a shorter one is another example, and `max_length` is not looked at.
"""

from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix.tasks.automata import IGNORE, Automaton
from seqmix.tasks.bracket_expressions import bracket_expressions
from seqmix.tasks.streams import below, words

__all__ = [
    "BracketArithmeticExamples",
    "CycleNavigationExamples",
    "EvenPairsExamples",
    "MixedLengths",
    "ModularArithmeticExamples",
    "SingleParityExamples",
]

Words = NDArray[np.int64]


class OneAnswer:
    """Words with one answer; subclasses say which. `shortest` is the least length, `pad` a token that says nothing."""

    name: str
    vocab_size: int
    chance: float
    shortest = 1
    pad = 0
    prefixes = False

    def make(self, drawn: NDArray[np.uint32], length: int) -> tuple[Words, Words]:
        """Tokens (count, length) and answers (count,) from random words (count, length)."""
        raise NotImplementedError

    def automaton(self) -> Automaton:
        """The language as a finite automaton that answers wherever a word may end."""
        raise NotImplementedError(f"{self.name} is no finite automaton")

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, length), of examples `start` .. `start + count - 1`."""
        if length < self.shortest:
            raise ValueError(f"{self.name}: a word must have at least {self.shortest} tokens, got length {length}")
        # A stream for each length, or the slices of different examples would overlap.
        drawn = words(seed, f"{split} {length}", start, count, n_words=length)
        tokens, answers = self.make(drawn, length)
        targets = np.full((count, length), IGNORE)
        targets[:, -1] = answers
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}


class SingleParityExamples(OneAnswer):
    """Is the number of twos odd: tokens 1 and 2, answer 1 for even and 2 for odd. 0 is the unused padding token.

    Example:
        >>> from seqmix.tasks.formal_languages import SingleParityExamples
        >>> batch = SingleParityExamples()(seed=0, split="train", start=0, count=2, length=5)
        >>> (batch["targets"] != -100).sum(1).tolist()
        [1, 1]
    """

    name, vocab_size, chance = "SingleParity", 3, 1 / 2

    def make(self, drawn: NDArray[np.uint32], length: int) -> tuple[Words, Words]:
        bits = below(drawn, 2)
        return 1 + bits, 1 + bits.sum(1) % 2

    def automaton(self) -> Automaton:
        """States are the two parities."""
        step = np.array([[-1, 0, 1], [-1, 1, 0]])
        return Automaton("parity, asked at the end", 0, step, _answers(step, [1, 2]))


class EvenPairsExamples(OneAnswer):
    """Is the number of pairs `12` and `21` even, which is whether first and last agree: answer 1, otherwise 2."""

    name, vocab_size, chance = "EvenPairs", 3, 1 / 2

    def make(self, drawn: NDArray[np.uint32], length: int) -> tuple[Words, Words]:
        tokens = 1 + below(drawn, 2)
        return tokens, 1 + (tokens[:, 0] != tokens[:, -1])

    def automaton(self) -> Automaton:
        """States 1 + 2 * first + last, and 0 before both."""
        step = np.array([[-1, 1, 4], [-1, 1, 2], [-1, 1, 2], [-1, 3, 4], [-1, 3, 4]])
        return Automaton("even pairs", 0, step, _answers(step, [IGNORE, 1, 2, 2, 1]))


class CycleNavigationExamples(OneAnswer):
    """Where a walk on a cycle of five ends: tokens 0, 1, 2 stay, step forward, step back; answers are places 0 .. 4."""

    name, vocab_size, chance = "CycleNavigation", 5, 1 / 5

    def make(self, drawn: NDArray[np.uint32], length: int) -> tuple[Words, Words]:
        tokens = below(drawn, 3)
        return tokens, np.array([0, 1, -1])[tokens].sum(1) % 5

    def automaton(self) -> Automaton:
        """States are the places."""
        step = np.full((5, self.vocab_size), -1)
        step[:, :3] = (np.arange(5)[:, None] + [0, 1, -1]) % 5
        return Automaton("navigation on a cycle of five", 0, step, _answers(step, range(5)))


class ModularArithmeticExamples(OneAnswer):
    """The value modulo 5 of d op d op ... d =, with + - * and * binding tighter.

    Tokens are 0 padding, 1 `+`, 2 `-`, 3 `*`, 4 `=`, and 5 .. 9 the digits 0 .. 4. A word of odd length starts with
    padding, because an expression and its `=` have an even number of tokens.
    """

    name, vocab_size, chance, shortest = "ModularArithmetic", 10, 1 / 5, 2

    def make(self, drawn: NDArray[np.uint32], length: int) -> tuple[Words, Words]:
        first = length % 2
        digits, operators = below(drawn[:, first::2], 5), below(drawn[:, first + 1 : -1 : 2], 3)
        tokens = np.zeros(drawn.shape, dtype=np.int64)
        tokens[:, first::2], tokens[:, first + 1 : -1 : 2], tokens[:, -1] = digits + 5, operators + 1, 4
        total, term = np.zeros(len(drawn), dtype=np.int64), digits[:, 0].copy()
        for digit, operator in zip(digits.T[1:], operators.T, strict=True):
            times = operator == 2
            total += np.where(times, 0, term)
            term = np.where(times, term * digit % 5, np.where(operator == 0, digit, -digit))
        return tokens, (total + term) % 5 + 5

    def automaton(self) -> Automaton:
        """States: before all and after padding; (total, term) after a digit and after `*`; total after `+` and `-`."""
        n, start, padded, end = 5, 0, 1, 62
        total, term = np.divmod(np.arange(n * n), n)
        digit, times, plus, minus = 2, 2 + n * n, 2 + 2 * n * n, 2 + 2 * n * n + n  # where each kind begins
        step = np.full((end + 1, self.vocab_size), -1)
        output = np.full_like(step, IGNORE)
        d = np.arange(n)
        step[start, 0] = padded
        step[[start, padded], 5:] = digit + d
        after_digit, after_times = digit + np.arange(n * n), times + np.arange(n * n)
        step[after_digit, 1] = plus + (total + term) % n
        step[after_digit, 2] = minus + (total + term) % n
        step[after_digit, 3] = after_times
        step[after_digit, 4] = end
        output[after_digit, 4] = (total + term) % n + 5
        step[after_times, 5:] = digit + n * total[:, None] + term[:, None] * d % n
        step[plus + d, 5:] = digit + n * d[:, None] + d
        step[minus + d, 5:] = digit + n * d[:, None] + -d % n
        return Automaton("arithmetic modulo 5 without brackets", start, step, output)


class BracketArithmeticExamples(OneAnswer):
    """The value modulo 5 of an expression with brackets and unary minus, followed by `=`; see `bracket_expressions`.

    Tokens are 0 .. 4 the digits, 5 `+`, 6 `-`, 7 `*`, 8 `(`, 9 `)`, 10 `=`, 11 padding.

    Args:
        multiplication: operators + - *; false, the other published variant, has + and - only.
    """

    name, vocab_size, chance, shortest, pad = "BracketArithmetic", 12, 1 / 5, 2, 11

    def __init__(self, multiplication: bool = False) -> None:
        if not isinstance(multiplication, bool):
            raise ValueError(f"{self.name}: multiplication must be true or false, got {multiplication!r}")
        self.multiplication = multiplication

    def make(self, drawn: NDArray[np.uint32], length: int) -> tuple[Words, Words]:
        tokens = np.full(drawn.shape, 10)
        tokens[:, :-1], values = bracket_expressions(drawn[:, :-1], multiplication=self.multiplication)
        return tokens, values


def _answers(step: Words, answers: Iterable[int]) -> Words:
    """The output table of an automaton whose answer is that of the state it has come to."""
    return np.where(step >= 0, np.array(list(answers))[step], IGNORE)


class MixedLengths:
    """Examples of `source` with lengths uniform in [low, high], each padded behind its answer to `high` tokens.

    `length` is not looked at.
    """

    prefixes = False

    def __init__(self, source: OneAnswer, low: int, high: int) -> None:
        self.source, self.low, self.high = source, low, high
        self.vocab_size, self.chance = source.vocab_size, source.chance

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, high), of examples `start` .. `start + count - 1`."""
        drawn = words(seed, f"{split} lengths", start, count, n_words=1)[:, 0]
        lengths = self.low + below(drawn, self.high - self.low + 1)
        batch = {"tokens": torch.full((count, self.high), self.source.pad)}
        batch["targets"] = torch.full((count, self.high), IGNORE)
        for row, n in enumerate(lengths.tolist()):
            one = self.source(seed=seed, split=split, start=start + row, count=1, length=n)
            for name, values in one.items():
                batch[name][row, :n] = values[0]
        return batch
