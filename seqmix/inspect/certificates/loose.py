"""Intervals for the blocks that are not tracked: what their entries can hold after any word.

A hard network only copies, so each entry always holds one of finitely many written values. The intervals here are the
least that hold zero's successors and are closed under every input: the words are any words over the inputs, whether
or not they can come in that order, and entries are taken one by one. That is more than can happen, never less.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.bounds import Array
from seqmix.inspect.certificates.machine import Machine, Tokens

__all__ = ["Loose", "loose_intervals"]


class Loose(NamedTuple):
    """Of every loose entry: low and high (K',) after any word, and (I, K') right after an input of the last layer."""

    low: Array
    high: Array
    low_after: Array
    high_after: Array

    def around(self, inputs: Tokens) -> tuple[Array, Array]:
        """Middle and half width (P, K') after inputs (P,)."""
        low, high = self.low_after[inputs], self.high_after[inputs]
        return (low + high) / 2, (high - low) / 2


def loose_intervals(machine: Machine, inputs: Tokens, first_inputs: Tokens) -> Loose:
    """Intervals of the loose entries of `machine`, where `first_inputs` may come first and `inputs` later."""
    columns, choices = machine.loose, machine.known[-1].choices
    place = np.full(choices.source.shape[1] + 1, -1)
    place[columns] = np.arange(len(columns))
    source, sign = place[choices.source[:, columns]], choices.sign[:, columns]
    # Twice the doubt, so that who checks the intervals may sum in another order.
    written, doubt = choices.value[:, columns] * sign, 2 * choices.radius[:, columns]

    def after(low: Array, high: Array, numbers: NDArray[np.int64]) -> tuple[Array, Array]:
        origin, flip = source[numbers], sign[numbers] < 0
        copy_low = np.where(flip, -high[origin], low[origin])
        copy_high = np.where(flip, -low[origin], high[origin])
        value, radius = written[numbers], doubt[numbers]
        return (np.where(origin < 0, value - radius, copy_low), np.where(origin < 0, value + radius, copy_high))

    size = len(columns)
    low_after, high_after = np.full((len(source), size), np.inf), np.full((len(source), size), -np.inf)
    zero = np.zeros(size)
    low_after[first_inputs], high_after[first_inputs] = after(zero, zero, first_inputs)
    low, high = low_after[first_inputs].min(0), high_after[first_inputs].max(0)
    while len(inputs):
        lower, higher = after(low, high, inputs)
        low_after[inputs] = np.minimum(low_after[inputs], lower)
        high_after[inputs] = np.maximum(high_after[inputs], higher)
        wider_low, wider_high = np.minimum(low, lower.min(0)), np.maximum(high, higher.max(0))
        if np.array_equal(wider_low, low) and np.array_equal(wider_high, high):
            break
        low, high = wider_low, wider_high
    return Loose(low, high, low_after, high_after)
