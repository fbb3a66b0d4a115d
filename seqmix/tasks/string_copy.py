"""Examples of copying strings and of looking up n-grams in them (Jelassi et al. 2024, 2402.01032).

Needs numpy and torch only. With a string s over an alphabet, the texts are

    copy             $ s | s .
    duplicate n-gram $ s | s .                  where one n-gram stands in s more than once
    prefix n-gram    $ g | s | continuation .   the letters that follow the first g in s
    suffix n-gram    $ s | g continuation .

Inputs are the text but its last token; targets are the next tokens of the answer, which is what follows the last `|`
(of a suffix n-gram: what follows g), the end `.` included. Letters are tokens 0, 1, ..., then `$`, `|` and `.`; the
published fourth special token, a mask for cut-off texts, is never needed. `length` is that of s.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix._checks import integers
from seqmix.tasks.streams import below, distinct, words
from seqmix.tasks.word_problem import IGNORE

__all__ = ["DuplicateNgramExamples", "NgramLookupExamples", "StringCopyExamples"]


class StringCopyExamples:
    """Copy a string of uniform letters.

    Args:
        n_letters: size of the alphabet.

    Raises:
        ValueError: fewer than two letters.

    Example:
        >>> from seqmix.tasks.string_copy import StringCopyExamples
        >>> batch = StringCopyExamples(26)(seed=0, split="train", start=0, count=2, length=5)
        >>> batch["tokens"].shape, (batch["targets"] != -100).sum(1).tolist()
        (torch.Size([2, 12]), [6, 6])
    """

    name = "StringCopy"
    prefixes = False
    shortest = 1

    def __init__(self, n_letters: int = 26) -> None:
        integers(self.name, 2, n_letters=n_letters)
        self.n_letters = n_letters
        self.begin, self.bar, self.end = n_letters, n_letters + 1, n_letters + 2
        self.vocab_size, self.chance = n_letters + 3, 1 / n_letters

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, T), of examples `start` .. `start + count - 1`.

        An example is a pure function of (seed, split, its number, length): a shorter one is another example.
        """
        if length < self.shortest:
            raise ValueError(f"{self.name}: a string must have at least {self.shortest} letters, got length {length}")
        # A stream for each length, or the slices of different examples would overlap.
        drawn = words(seed, f"{split} {length}", start, count, n_words=length + self._extra_words())
        text, first = self._text(drawn, length)
        targets = text[:, 1:].copy()
        targets[:, : first - 1] = IGNORE
        return {"tokens": torch.from_numpy(text[:, :-1].copy()), "targets": torch.from_numpy(targets)}

    def _extra_words(self) -> int:
        return 0

    def _text(self, drawn: NDArray[np.uint32], length: int) -> tuple[NDArray[np.int64], int]:
        # The text, and where its answer begins.
        return self._join(self.begin, s := below(drawn[:, :length], self.n_letters), self.bar, s, self.end), length + 2

    @staticmethod
    def _join(*parts: int | NDArray[np.int64]) -> NDArray[np.int64]:
        count = next(len(part) for part in parts if isinstance(part, np.ndarray))
        columns = [np.full((count, 1), part) if isinstance(part, int) else part for part in parts]
        return np.concatenate(columns, axis=1)


class DuplicateNgramExamples(StringCopyExamples):
    """Copy a string in which one n-gram stands `repeats` times, without overlap: looking it up is ambiguous.

    Args:
        n_letters: size of the alphabet.
        n: letters of the n-gram.
        repeats: how often it stands there, at least.

    Raises:
        ValueError: numbers that are not positive; a string too short for the n-grams.
    """

    name = "DuplicateNgram"

    def __init__(self, n_letters: int = 26, n: int = 3, repeats: int = 2) -> None:
        super().__init__(n_letters)
        integers(self.name, n=n)
        integers(self.name, 2, repeats=repeats)
        self.n, self.repeats, self.shortest = n, repeats, n * repeats

    def _extra_words(self) -> int:
        return 2 * self.repeats

    def _text(self, drawn: NDArray[np.uint32], length: int) -> tuple[NDArray[np.int64], int]:
        s = below(drawn[:, :length], self.n_letters)
        # Places of n-grams that do not overlap: distinct ones in a string where each n-gram is one letter.
        places = np.sort(distinct(drawn[:, length:], length - self.repeats * (self.n - 1)), axis=1)
        places = (places + np.arange(self.repeats) * (self.n - 1))[:, :, None] + np.arange(self.n)
        ngram = np.take_along_axis(s, places[:, 0], axis=1)
        np.put_along_axis(s, places.reshape(len(s), -1), np.tile(ngram, (1, self.repeats)), axis=1)
        return self._join(self.begin, s, self.bar, s, self.end), length + 2


class NgramLookupExamples(StringCopyExamples):
    """Find an n-gram of the string and continue it; of several occurrences the first counts.

    Args:
        n_letters: size of the alphabet.
        n: letters of the n-gram.
        n_answer: letters of the continuation.
        suffix: the n-gram comes after the string instead of before it.

    Raises:
        ValueError: numbers that are not positive; a string too short for n-gram and continuation.
    """

    name = "NgramLookup"

    def __init__(self, n_letters: int = 26, n: int = 2, n_answer: int = 1, suffix: bool = False) -> None:
        super().__init__(n_letters)
        integers(self.name, n=n, n_answer=n_answer)
        if n > 62 or n_letters**n > 1 << 62:
            raise ValueError(f"{self.name}: n must be small enough to number the n-grams, got {n}")
        self.n, self.n_answer, self.suffix, self.shortest = n, n_answer, suffix, n + n_answer

    def _extra_words(self) -> int:
        return 1

    def _text(self, drawn: NDArray[np.uint32], length: int) -> tuple[NDArray[np.int64], int]:
        s = below(drawn[:, :length], self.n_letters)
        windows = np.lib.stride_tricks.sliding_window_view(s, self.n, axis=1)[:, : length - self.n - self.n_answer + 1]
        codes = windows @ (self.n_letters ** np.arange(self.n))
        chosen = below(drawn[:, length:], codes.shape[1])
        place = (codes == np.take_along_axis(codes, chosen, axis=1)).argmax(1)[:, None]
        found = np.take_along_axis(s, place + np.arange(self.n + self.n_answer), axis=1)
        ngram, answer = found[:, : self.n], found[:, self.n :]
        if self.suffix:
            return self._join(self.begin, s, self.bar, ngram, answer, self.end), length + 2 + self.n
        return self._join(self.begin, ngram, self.bar, s, self.bar, answer, self.end), length + 3 + self.n
