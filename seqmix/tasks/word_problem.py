"""Examples of the word problem of a group: the running product of random elements. Needs numpy and torch only."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix.tasks.automata import IGNORE, Automaton
from seqmix.tasks.groups import Group
from seqmix.tasks.groups import group as group_of
from seqmix.tasks.streams import symbols

__all__ = ["IGNORE", "WordProblemExamples"]


class WordProblemExamples:
    """Words x_1 .. x_T over a group, with the target y_t = y_{t-1} then x_t at every position.

    Tokens are the numbers of the elements, 0 the identity; BOS, if used, is token |G|, stands first and has no
    target. The order of composition is that of `seqmix.tasks.groups`. Chance is 1 / |G|, although the first position
    is free (y_1 = x_1) and short words can be learned by heart.

    Args:
        group: name of the group.
        generators: elements that words are made of: None for all of them, a list of element numbers, or k for the
            same k elements every time. They must generate the whole group.
        bos: start every sequence with a token of its own.

    Raises:
        ValueError: an unknown group, generators that are none, or a `bos` that is neither true nor false.

    Example:
        >>> from seqmix.tasks.word_problem import WordProblemExamples
        >>> batch = WordProblemExamples("Z2")(seed=0, split="train", start=0, count=2, length=5)
        >>> batch["tokens"].shape, batch["targets"][:, 0].tolist()
        (torch.Size([2, 6]), [-100, -100])
    """

    prefixes = True

    def __init__(self, group: str, generators: int | Sequence[int] | None = None, bos: bool = True) -> None:
        if not isinstance(bos, bool):
            raise ValueError(f"word problem: bos must be true or false, got {bos!r}")
        self.group = group_of(group)
        self.inputs = _inputs(self.group, generators)
        self.bos = bos
        self.vocab_size = self.group.order + bos
        self.chance = 1 / self.group.order

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        """`tokens` and `targets`, int64 (count, length + bos), of examples `start` .. `start + count - 1`.

        An example is a pure function of (seed, split, its number, max_length); a shorter `length` is its prefix.
        """
        words = symbols(
            seed, split, start, count, length=length, max_length=max_length or length, n_symbols=len(self.inputs)
        )
        if len(self.inputs) != self.group.order:
            words = self.inputs[words]
        tokens = np.empty((count, length + self.bos), dtype=np.int64)
        targets = np.empty_like(tokens)
        if self.bos:
            tokens[:, 0] = self.group.order
            targets[:, 0] = IGNORE
        tokens[:, int(self.bos) :] = words
        targets[:, int(self.bos) :] = self.group.running_product(words)
        return {"tokens": torch.from_numpy(tokens), "targets": torch.from_numpy(targets)}

    def automaton(self) -> Automaton:
        """States are the elements, and one more before a BOS."""
        n = self.group.order
        step = np.full((n + self.bos, self.vocab_size), -1, dtype=np.int64)
        output = np.full_like(step, IGNORE)
        step[:n, self.inputs] = output[:n, self.inputs] = self.group.table[:, self.inputs]
        if self.bos:
            step[n, n] = 0
        name = f"the word problem of {self.group.name}"
        return Automaton(name, n if self.bos else 0, step, output, n if self.bos else None)


def _inputs(group: Group, generators: int | Sequence[int] | None) -> NDArray[np.int64]:
    n, name = group.order, group.name
    if generators is None:
        return np.arange(n, dtype=np.int64)
    if isinstance(generators, int) and not isinstance(generators, bool):
        basis = group.generators()
        if not len(basis) <= generators <= n:
            raise ValueError(
                f"WordProblem: generators must be between {len(basis)} and {n} elements for {name}, got {generators}"
            )
        # The basis first, then elements in a fixed random order, so that sets for growing k are nested.
        others = [e for e in np.random.default_rng(n).permutation(n).tolist() if e not in basis]
        return np.array(sorted([*basis, *others][:generators]), dtype=np.int64)
    elements = list(generators) if isinstance(generators, Sequence) and not isinstance(generators, str) else None
    if not elements or any(not isinstance(e, int) or not 0 <= e < n for e in elements):
        raise ValueError(
            f"WordProblem: generators must be None, a number, or element numbers in [0, {n}) of {name}, "
            f"got {generators!r}"
        )
    reached = group.generated_by(elements).size
    if reached != n:
        raise ValueError(
            f"WordProblem: generators must generate the {n} elements of {name}, {elements} generate {reached} of them"
        )
    return np.array(sorted(set(elements)), dtype=np.int64)
