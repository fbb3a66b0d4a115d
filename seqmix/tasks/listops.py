"""Examples of ListOps (Nangia & Bowman 2018, 1804.06028) at the lengths of Tay et al. 2020 (2011.04006). Numpy, torch.

    [MAX 4 3 [MIN 2 3 ] 1 0 [MED 1 5 8 9 2 ] ]        tokens: [MAX, [MIN, [MED, [SM, ], digits; the class is the value

A node above the largest depth is an operator with probability 1/4, with a uniform number of arguments, else a digit;
the root has depth 1, as in the published generator.
MED is the median, rounded down, SM the sum modulo 10. Trees are kept whose number of tokens lies in a range.

Trees grow level by level, many at once, and are read, valued and written in order without a loop over nodes. Example i
stands in block i // 100 of its split, and a block has ten examples of each class: left alone, 0 and 9 would be 17 %
each at the published size.
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from seqmix._checks import positive
from seqmix.tasks.streams import below, words

__all__ = ["ListOpsExamples"]

_MIN, _MAX, _MED, _SM, _CLOSE, _PAD, _MASK = range(10, 17)  # after the digits
_CLASSES, _OF_EACH = 10, 10
_GROWN = 1024  # trees at a time
_ROUNDS = 400

Ints = NDArray[np.int64]


class _Level(NamedTuple):
    # Nodes of one depth, those of a parent side by side.
    parent: Ints  # number in the level above; of the tree, for roots
    arity: Ints  # 0: a digit


class ListOpsExamples:
    """Nested lists of ten classes: padded `tokens` (count, length), their `lengths` (count,) and `targets` (count, 1).

    Tokens 0 to 9 are digits, 10 to 14 MIN, MAX, MED, SM and the bracket that closes, 15 is padding and 16 a mask.

    Args:
        min_length: the shortest that is kept; a length in calls is the longest.
        max_depth: of a tree, its root and its deepest digits counted.
        max_arguments: of an operator, which has at least two.

    Raises:
        ValueError: a range of lengths that trees of this depth do not reach.

    Example:
        >>> from seqmix.tasks.listops import ListOpsExamples
        >>> batch = ListOpsExamples(10, 5, 5)(seed=0, split="train", start=0, count=100, length=50)
        >>> batch["tokens"].shape, batch["targets"].flatten().bincount().tolist()
        (torch.Size([100, 50]), [10, 10, 10, 10, 10, 10, 10, 10, 10, 10])
    """

    vocab_size, n_classes, chance = 17, _CLASSES, 1 / _CLASSES
    mask_token = _MASK
    prefixes = False

    def __init__(self, min_length: int = 500, max_depth: int = 10, max_arguments: int = 10) -> None:
        for name, value, least in (
            ("min_length", min_length, 1),
            ("max_depth", max_depth, 2),
            ("max_arguments", max_arguments, 2),
        ):
            positive("ListOps", name, value, least)
        self.min_length, self.max_depth, self.max_arguments = min_length, max_depth, max_arguments

    def __call__(
        self, *, seed: int, split: str, start: int, count: int, length: int, max_length: int | None = None
    ) -> dict[str, Tensor]:
        if length < max(self.min_length, 4):
            raise ValueError(
                f"ListOps: the longest length must be at least min_length = {self.min_length}, and 4 for an operator "
                f"with two digits, got {length}"
            )
        if self.max_arguments > length:
            raise ValueError(
                f"ListOps: max_arguments must be at most the longest length = {length}, got {self.max_arguments}"
            )
        size = _CLASSES * _OF_EACH
        blocks = range(start // size, -(-(start + count) // size))
        settings = (self.min_length, length, self.max_depth, self.max_arguments)
        parts = [_block(seed, f"{split} {length}", block, *settings) for block in blocks]
        rows = slice(start - blocks[0] * size, start - blocks[0] * size + count)
        tokens, lengths, targets = (np.concatenate(column)[rows] for column in zip(*parts, strict=True))
        return {
            "tokens": torch.from_numpy(tokens.astype(np.int64)),
            "lengths": torch.from_numpy(lengths),
            "targets": torch.from_numpy(targets[:, None]),
        }


@lru_cache(maxsize=8)
def _block(
    seed: int, split: str, block: int, shortest: int, longest: int, max_depth: int, max_arguments: int
) -> tuple[NDArray[np.int8], Ints, Ints]:
    """Tokens, lengths and values of the 100 examples of a block, ten of each value, in random order."""
    need, kept = np.full(_CLASSES, _OF_EACH), []
    for number in range(_ROUNDS):
        stream = _Stream(seed, f"{split} {block} {number}")
        levels, lengths = _grow(stream, shortest, longest, max_depth, max_arguments)
        if len(lengths):
            tokens, values = _write(stream, levels, lengths, longest)
            # The first of each class, as many as are missing.
            order = np.argsort(values, kind="stable")
            rank = np.empty(len(values), dtype=np.int64)
            ordered = values[order]
            rank[order] = np.arange(len(values)) - np.searchsorted(ordered, ordered)
            chosen = np.flatnonzero(rank < need[values])
            need -= np.bincount(values[chosen], minlength=_CLASSES)
            kept.append((tokens[chosen], lengths[chosen], values[chosen]))
        if not need.any():
            break
    else:
        raise ValueError(
            f"ListOps: of {_ROUNDS * _GROWN:,} trees of depth {max_depth} too few have {shortest} to {longest} tokens; "
            "widen the range of lengths"
        )
    tokens, lengths, values = (np.concatenate(column) for column in zip(*kept, strict=True))
    order = np.argsort(_Stream(seed, f"{split} {block} order").words(len(values)), kind="stable")
    return tokens[order], lengths[order], values[order]


class _Stream:
    # Words one after another, as many as are asked for.
    def __init__(self, seed: int, split: str) -> None:
        self.seed, self.split, self.used = seed, split, 0

    def words(self, n: int) -> NDArray[np.uint32]:
        start, self.used = self.used, self.used + -(-n // 8)
        drawn = words(self.seed, self.split, start, self.used - start, n_words=8)
        return drawn.reshape(-1)[:n]


def _grow(
    stream: _Stream, shortest: int, longest: int, max_depth: int, max_arguments: int
) -> tuple[list[_Level], Ints]:
    """The trees of `_GROWN` that are kept, and their numbers of tokens."""
    trees = parent = np.arange(_GROWN)
    tokens = np.zeros(_GROWN, dtype=np.int64)
    levels: list[_Level] = []
    for depth in range(1, max_depth + 1):
        arity = np.zeros(len(trees), dtype=np.int64)
        if depth < max_depth:
            drawn = stream.words(2 * len(trees))
            inner = drawn[: len(trees)] < 1 << 30
            arity[inner] = 2 + below(drawn[len(trees) :][inner], max_arguments - 1)
        levels.append(_Level(parent, arity))
        tokens += np.bincount(trees, minlength=_GROWN) + np.bincount(trees[arity > 0], minlength=_GROWN)
        # A tree that is too long already need not grow on, which saves most of the work.
        arity[(tokens > longest)[trees]] = 0
        parent = np.repeat(np.arange(len(trees)), arity)
        trees = trees[parent]
        if not len(trees):
            break
    kept = (tokens >= shortest) & (tokens <= longest) & (levels[0].arity > 0)
    return _pick(levels, kept), tokens[kept]


def _pick(levels: list[_Level], kept: NDArray[np.bool_]) -> list[_Level]:
    """The levels of the trees that are kept, numbered anew."""
    picked: list[_Level] = []
    for level in levels:
        chosen = kept if not picked else kept[level.parent]
        renumber = np.cumsum(kept) - 1
        parent = level.parent[chosen] if not picked else renumber[level.parent[chosen]]
        picked.append(_Level(parent, level.arity[chosen]))
        kept = chosen
    return picked


def _write(stream: _Stream, levels: list[_Level], lengths: Ints, longest: int) -> tuple[NDArray[np.int8], Ints]:
    """Tokens (trees, longest) in reading order, and the values of the trees."""
    symbols = []
    for level in levels:
        drawn = stream.words(len(level.arity))
        symbols.append(np.where(level.arity > 0, _MIN + below(drawn, 4), below(drawn, 10)))
    # From the leaves up: values, and how many tokens each node covers.
    values, spans = [symbols[-1]], [np.ones(len(symbols[-1]), dtype=np.int64)]
    for level, symbol in zip(levels[-2::-1], symbols[-2::-1], strict=True):
        inner = np.flatnonzero(level.arity)
        value, span = symbol.copy(), np.ones(len(symbol), dtype=np.int64)
        if len(inner):
            arity = level.arity[inner]
            first = np.cumsum(arity) - arity
            value[inner] = _reduce(symbol[inner], values[0], first, arity)
            span[inner] = 2 + np.add.reduceat(spans[0], first)
        values.insert(0, value)
        spans.insert(0, span)
    # From the root down: a node starts after its parent's token and its elder siblings.
    tokens = np.full((len(lengths), longest), _PAD, dtype=np.int8)
    flat = tokens.reshape(-1)
    place = np.arange(len(lengths)) * longest
    for depth, (level, symbol) in enumerate(zip(levels, symbols, strict=True)):
        if depth:
            before = np.cumsum(spans[depth]) - spans[depth]
            above = levels[depth - 1].arity
            first = np.cumsum(above) - above  # of each parent, among these nodes
            place = place[level.parent] + 1 + before - before[first[level.parent]]
        flat[place] = symbol
        operator = level.arity > 0
        flat[place[operator] + spans[depth][operator] - 1] = _CLOSE
    return tokens, values[0]


def _reduce(operator: Ints, values: Ints, first: Ints, arity: Ints) -> Ints:
    """The values of operators whose arguments are `values[first : first + arity]`."""
    group = np.repeat(np.arange(len(first)), arity)
    ordered = np.sort(group * 16 + values) & 15  # sorted within each group
    last = first + arity - 1
    median = (ordered[(first + last) // 2] + ordered[(first + last + 1) // 2]) // 2
    total = np.add.reduceat(values, first) % 10
    return np.choose(operator - _MIN, [ordered[first], ordered[last], median, total])
