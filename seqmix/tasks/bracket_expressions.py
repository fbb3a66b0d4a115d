"""Random arithmetic expressions with brackets, many at once: trees are grown and evaluated level by level."""

import numpy as np
from numpy.typing import NDArray

from seqmix.tasks.streams import below

__all__ = ["bracket_expressions"]

_PLUS, _MINUS, _OPEN, _CLOSE = 5, 6, 8, 9


def bracket_expressions(
    drawn: NDArray[np.uint32], *, multiplication: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Expressions (count, n) from random words (count, n), and their values modulo 5 (count,).

    An expression of n tokens (Deletang et al. 2022) is

        d     -d     (d)     (-d)            for n = 1, 2, 3, 4
        (left op right)                      for n > 4, the left with 1 .. n - 4 tokens, every number equally likely

    with digits d, 0 .. 4, and op one of + - (tokens 5, 6) or + - * (7). Brackets are tokens 8 and 9. Every choice is
    made by the random word that stands where its outcome is written, so that nodes are independent.
    """
    count, n = drawn.shape
    tokens, values = np.empty((count, n), dtype=np.int64), np.empty((count, n), dtype=np.int64)
    # A node is (row, first token, number of tokens); its value is kept where its first token stands.
    row, first, size = np.arange(count), np.zeros(count, dtype=np.int64), np.full(count, n)
    levels = []
    while row.size:
        leaf = size <= 4
        _write_leaves(tokens, values, drawn, row[leaf], first[leaf], size[leaf])
        row, first, size = row[~leaf], first[~leaf], size[~leaf]
        left = 1 + below(drawn[row, first], size - 4)
        middle = first + 1 + left
        operator = below(drawn[row, middle], 3 if multiplication else 2)
        tokens[row, first], tokens[row, middle], tokens[row, first + size - 1] = _OPEN, _PLUS + operator, _CLOSE
        levels.append((row, first, middle, operator))
        row, first, size = (
            np.concatenate([row, row]),
            np.concatenate([first + 1, middle + 1]),
            np.concatenate([left, size - left - 3]),
        )
    for row, first, middle, operator in reversed(levels):
        a, b = values[row, first + 1], values[row, middle + 1]
        values[row, first] = np.choose(operator, [a + b, a - b, a * b]) % 5
    return tokens, values[:, 0]


def _write_leaves(
    tokens: NDArray[np.int64],
    values: NDArray[np.int64],
    drawn: NDArray[np.uint32],
    row: NDArray[np.int64],
    first: NDArray[np.int64],
    size: NDArray[np.int64],
) -> None:
    bracketed, negative = size >= 3, size % 2 == 0
    place = first + bracketed + negative
    digit = below(drawn[row, place], 5)
    tokens[row[bracketed], first[bracketed]] = _OPEN
    tokens[row[bracketed], (first + size - 1)[bracketed]] = _CLOSE
    tokens[row[negative], (place - 1)[negative]] = _MINUS
    tokens[row, place] = digit
    values[row, first] = np.where(negative, -digit, digit) % 5
