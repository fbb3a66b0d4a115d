"""Examples of selective copying, induction heads and compression. Needs numpy and torch only.

An example is a pure function of (seed, split, its number, length): a shorter one is another example, and `max_length`
is not looked at.
"""

import numpy as np
import torch
from torch import Tensor

from seqmix._checks import integers
from seqmix.tasks.streams import below, distinct, words
from seqmix.tasks.word_problem import IGNORE

__all__ = ["CompressionExamples", "InductionHeadsExamples", "SelectiveCopyExamples"]


class SelectiveCopyExamples:
    """Remember the few tokens that are not blank, and say them in order (Gu & Dao 2023, 2312.00752; Poli et al. 2024).

        body, with n_tokens data tokens among blanks | marker | n_tokens blanks, where the data tokens are the targets

    Tokens are the data symbols 0 .. vocab_size - 3, the blank and the marker. Chance is 1 / (vocab_size - 2).

    Args:
        vocab_size: number of tokens.
        n_tokens: data tokens in the body.
        positions: `"random"`, where each set of places is equally likely, or `"fixed"`: the first places of the body,
            so that copying is a delay and needs no selection.

    Raises:
        ValueError: fewer than two symbols, a length that does not hold the tokens twice and the marker.

    Example:
        >>> from seqmix.tasks.selective_copy import SelectiveCopyExamples
        >>> batch = SelectiveCopyExamples(10, 3)(seed=0, split="train", start=0, count=2, length=16)
        >>> batch["tokens"].shape, (batch["targets"] != -100).sum(1).tolist()
        (torch.Size([2, 16]), [3, 3])
    """

    prefixes = False

    def __init__(self, vocab_size: int = 16, n_tokens: int = 16, positions: str = "random") -> None:
        integers("SelectiveCopy", n_tokens=n_tokens)
        integers("SelectiveCopy", 4, vocab_size=vocab_size)
        if positions not in ("random", "fixed"):
            raise ValueError(f"SelectiveCopy: positions must be 'random' or 'fixed', got {positions!r}")
        self.vocab_size, self.n_tokens, self.positions = vocab_size, n_tokens, positions
        self.blank, self.marker, self.chance = vocab_size - 2, vocab_size - 1, 1 / (vocab_size - 2)

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, length), of examples `start` .. `start + count - 1`."""
        n = self.n_tokens
        if length < 2 * n + 1:
            raise ValueError(
                f"SelectiveCopy: lengths must be at least 2 n_tokens + 1 = {2 * n + 1}, the body, the marker and the "
                f"answers, got {length}"
            )
        drawn = words(seed, f"{split} {length}", start, count, n_words=3 * n)
        data, body = below(drawn[:, :n], self.vocab_size - 2), length - n - 1
        tokens = np.full((count, length), self.blank)
        if self.positions == "fixed":
            tokens[:, :n] = data
        else:
            np.put_along_axis(tokens, np.sort(distinct(drawn[:, n:], body), axis=1), data, axis=1)
        tokens[:, body] = self.marker
        targets = np.full((count, length), IGNORE)
        targets[:, -n:] = data
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}


class _OneSpecial:
    """Uniform tokens 0 .. vocab_size - 2, and vocab_size - 1, which is special; chance is any of the others."""

    prefixes = False

    def __init__(self, vocab_size: int = 16) -> None:
        integers(type(self).__name__.removesuffix("Examples"), 3, vocab_size=vocab_size)
        self.vocab_size, self.chance = vocab_size, 1 / (vocab_size - 1)


class InductionHeadsExamples(_OneSpecial):
    """What followed the trigger when it was seen: asked once, at the end (Olsson et al. 2022; Gu & Dao 2023).

    Uniform tokens 0 .. vocab_size - 2, in which the trigger, vocab_size - 1, stands once, at any place but the last
    two, and again at the end, where the token behind the first is the target. Chance is 1 / (vocab_size - 1).

    Args:
        vocab_size: number of tokens.

    Raises:
        ValueError: fewer than three tokens; a length below 3.
    """

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, length), of examples `start` .. `start + count - 1`."""
        if length < 3:
            raise ValueError(f"InductionHeads: lengths must be at least 3, trigger, answer and trigger, got {length}")
        drawn = words(seed, f"{split} {length}", start, count, n_words=length)
        tokens = below(drawn, self.vocab_size - 1)
        # The last word is free: a trigger stands in its place.
        place = below(drawn[:, -1:], length - 2)
        np.put_along_axis(tokens, place, self.vocab_size - 1, axis=1)
        tokens[:, -1] = self.vocab_size - 1
        targets = np.full((count, length), IGNORE)
        targets[:, -1] = np.take_along_axis(tokens, place + 1, axis=1)[:, 0]
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}


class CompressionExamples(_OneSpecial):
    """Say every token again from one vector, with an auto-encoder head (MAD, Poli et al. 2024, 2403.17844).

    `length` - 1 uniform tokens 0 .. vocab_size - 2, then the compression token vocab_size - 1, where the vector is
    taken; it has no target itself. Chance is 1 / (vocab_size - 1).

    Args:
        vocab_size: number of tokens.

    Raises:
        ValueError: fewer than three tokens; a length below 2.
    """

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, length), of examples `start` .. `start + count - 1`."""
        if length < 2:
            raise ValueError(
                f"Compression: lengths must be at least 2, a token and the compression token, got {length}"
            )
        drawn = words(seed, f"{split} {length}", start, count, n_words=length - 1)
        tokens = np.full((count, length), self.vocab_size - 1)
        tokens[:, :-1] = below(drawn, self.vocab_size - 1)
        targets = tokens.copy()
        targets[:, -1] = IGNORE
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}
