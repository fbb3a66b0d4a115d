"""Written values that are near taken for one: what no read-out can see need not be followed.

An entry holds a value that some token has written to its block. If values of a block are put into classes, letters
still copy, so that a state of classes steps as one of values does, and stands for all values between the ends of its
classes. A class of width w moves a read-out by at most w / 2 times what the entries of its block weigh. Blocks begin
with one class, which is what intervals know, and are halved where they may move read-outs most.
"""

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.machine import Classes, Machine

__all__ = ["Blocks"]

_HALVINGS = 20


class Blocks:
    """How finely the values of each block are told apart.

    Args:
        machine: of one layer, with all blocks.
        kept: (N,) blocks that are followed whatever their classes are.
    """

    def __init__(self, machine: Machine, kept: NDArray[np.bool_]) -> None:
        network, self.kept = machine.network, kept
        layer, choices = network.layers[0], machine.known[0].choices
        self.n, self.m = layer.n_blocks, layer.m
        head = network.head * network.norm.weight
        moves = np.ptp((head - head.mean(1, keepdims=True)) @ layer.out, axis=0)
        self.weight = moves.reshape(self.n, self.m).sum(1)
        used = np.zeros(len(choices.source), dtype=bool)
        used[machine.tokens] = True
        self.written = (choices.source < 0) & used[:, None]
        # Twice the doubt, so that who checks the ends may sum in another order.
        self.low, self.high = choices.value - 2 * choices.radius, choices.value + 2 * choices.radius
        ends = [self._ends(block) for block in range(self.n)]
        self.range = np.array([max(high.max(initial=0), 0) - min(low.min(initial=0), 0) for low, high in ends])
        self.halved, self.final = np.zeros(self.n, dtype=np.int64), self.range == 0
        self.last = np.zeros(self.n, dtype=bool)

    def _ends(self, block: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        columns = slice(block * self.m, (block + 1) * self.m)
        where = self.written[:, columns]
        return self.low[:, columns][where], self.high[:, columns][where]

    def refine(self) -> bool:
        """Halve the classes of the blocks that may move read-outs most; false where none may be."""
        loss = np.where(self.final | (self.halved >= _HALVINGS), 0, self.weight * self.range / 2.0**self.halved)
        if not loss.any():
            return False
        self.last = loss >= loss.max() / 2
        self.halved[self.last] += 1
        return True

    def undo(self) -> None:
        """The last step led to too many states: back, and of several blocks to halve the first alone comes next."""
        self.halved[self.last] -= 1
        several = np.flatnonzero(self.last)
        self.final[several[-1 if len(several) > 1 else 0]] = True

    def merged(self) -> tuple[NDArray[np.bool_], Classes]:
        """The blocks to follow, and the classes."""
        number = np.zeros(self.written.shape, dtype=np.int32)
        lows, highs = [0.0], [0.0]
        for block in range(self.n):
            low, high = self._ends(block)
            if not len(low):
                continue
            width = 0.0 if self.halved[block] >= _HALVINGS else self.range[block] / 2.0 ** self.halved[block]
            which, begin = np.zeros(len(low), dtype=np.int32), -np.inf
            for place in np.argsort(low, kind="stable").tolist():
                if high[place] - begin > width or begin == -np.inf:
                    begin = float(low[place])
                    lows.append(begin)
                    highs.append(begin)
                highs[-1] = max(highs[-1], float(high[place]))
                which[place] = len(lows) - 1
            columns = slice(block * self.m, (block + 1) * self.m)
            number[:, columns][self.written[:, columns]] = which
        followed = self.kept | (self.halved > 0)
        return followed, Classes(number, np.array(lows), np.array(highs))
