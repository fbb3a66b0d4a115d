"""Examples of multi-query associative recall (Arora et al. 2023, 2312.04927). Needs numpy and torch only.

    k_1 v_1 .. k_D v_D | slots of two positions, a key in D of them, its value the target there

Keys are D different tokens of 1 .. V/2 - 1, values D different ones of V/2 .. V - 1. Key i returns in a slot of its
own; slots are drawn for k_1, k_2, ... without replacement with p(slot s) proportional to s^(a - 1), s = 1, 2, ..., so
that with the published a = 0.01 most keys return soon and few late (a = 1: uniform). What is left is token 0, or
random.
"""

import numpy as np
import torch
from torch import Tensor

from seqmix._checks import integers, is_whole
from seqmix.tasks.streams import below, distinct, skip, unit, words
from seqmix.tasks.word_problem import IGNORE

__all__ = ["FILLERS", "MQARExamples"]

FILLERS = ("zero", "random", "any")


class MQARExamples:
    """Multi-query associative recall; every example has D targets.

    Args:
        vocab_size: number of tokens V, even.
        n_pairs: D.
        power: a, above 0.
        fillers: what stands where no key and no value does: `"zero"`, `"random"` tokens that are no key of the
            example, or `"any"` tokens, which may repeat a key without a target (as published).

    Raises:
        ValueError: fewer keys than pairs, a length that cannot hold the pairs and their queries, a number out of range.

    Example:
        >>> from seqmix.tasks.mqar import MQARExamples
        >>> batch = MQARExamples(64, 4)(seed=0, split="train", start=0, count=2, length=32)
        >>> batch["tokens"].shape, (batch["targets"] != -100).sum(1).tolist()
        (torch.Size([2, 32]), [4, 4])
    """

    prefixes = False

    def __init__(self, vocab_size: int, n_pairs: int, *, power: float = 0.01, fillers: str = "zero") -> None:
        if not is_whole(vocab_size, 4) or vocab_size % 2:
            raise ValueError(f"MQAR: vocab_size must be an even integer of at least 4, got {vocab_size!r}")
        if not isinstance(power, int | float) or not 0 < power < float("inf"):
            raise ValueError(f"MQAR: power must be a positive number, got {power!r}")
        if fillers not in FILLERS:
            raise ValueError(f"MQAR: fillers must be one of {', '.join(map(repr, FILLERS))}, got {fillers!r}")
        integers("MQAR", n_pairs=n_pairs)
        if vocab_size // 2 - 1 < n_pairs:
            raise ValueError(
                f"MQAR: vocab_size must have as many keys as pairs, at least {2 * n_pairs + 2} for n_pairs = "
                f"{n_pairs}, got {vocab_size}"
            )
        self.vocab_size, self.n_pairs, self.power, self.fillers = vocab_size, n_pairs, power, fillers
        # A model that knows which tokens are values here, and not which belongs to the key.
        self.chance = 1 / n_pairs

    def check_length(self, length: int) -> None:
        """`ValueError` unless a sequence of this length holds the pairs and their queries."""
        if length % 2 or length < 4 * self.n_pairs:
            raise ValueError(
                f"MQAR: lengths must be even and at least 4 n_pairs = {4 * self.n_pairs}, for the pairs and their "
                f"queries, got {length}"
            )

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, length), of examples `start` .. `start + count - 1`.

        An example is a pure function of (seed, split, its number, length): a shorter one is another example.
        """
        self.check_length(length)
        n, half, slots = self.n_pairs, self.vocab_size // 2, (length - 2 * self.n_pairs) // 2
        # One stream for each (length, pairs): mixtures must not share examples.
        drawn = words(seed, f"{split} {length}:{n}", start, count, n_words=4 * n + slots + length)
        keys = 1 + distinct(drawn[:, : 2 * n], half - 1)
        values = half + distinct(drawn[:, 2 * n : 4 * n], half)
        # The n earliest of independent exponential clocks with rates p are a draw without replacement, in order.
        rates = np.arange(1, slots + 1, dtype=np.float64) ** (self.power - 1)
        clocks = -np.log(unit(drawn[:, 4 * n : 4 * n + slots])) / rates
        places = 2 * n + 2 * np.argsort(clocks, axis=1, kind="stable")[:, :n]
        tokens = np.zeros((count, length), dtype=np.int64)
        targets = np.full((count, length), IGNORE)
        if self.fillers != "zero":
            free = drawn[:, 4 * n + slots :][:, 2 * n :]
            if self.fillers == "random":
                tokens[:, 2 * n :] = skip(below(free, self.vocab_size - n), keys)
            else:
                tokens[:, 2 * n :] = below(free, self.vocab_size)
        tokens[:, 0 : 2 * n : 2], tokens[:, 1 : 2 * n : 2] = keys, values
        np.put_along_axis(tokens, places, keys, axis=1)
        np.put_along_axis(targets, places, values, axis=1)
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}
