"""The hard network as a machine over symbols: no state is ever compared as numbers.

Entry e of a layer is 0 before anything was written, or +-(1 + i K + e'): the value that the layer's input number i
wrote to entry e' of K, perhaps negated since. Inputs of the first layer are tokens; those of a deeper layer are a token
together with the symbols of all layers below it, numbered as they come up. Two states are equal exactly if their
symbols are, so that nothing depends on rounding but which gates are largest, and that is checked.

Blocks of the last layer may be left out (`tracked`): what they hold is then known only up to intervals, see
`seqmix.inspect.certificates.loose`. In an only layer written values may be taken for one (`classes`): a symbol then is
the number of a class, and stands for all that lies between its ends.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.bounds import Array, Spread, margins
from seqmix.inspect.certificates.network import Choices, Network, Undecided

__all__ = ["Classes", "Interner", "Machine", "Symbols", "Tokens"]

Symbols = NDArray[np.int32]
Tokens = NDArray[np.int64]


class Interner:
    """Numbers rows of integers (n, width) in the order in which they first come up."""

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, rows: NDArray[np.int32]) -> tuple[Tokens, Tokens]:
        """Numbers (n,) of rows, and where in `rows` those stand that are new, in the order of their numbers."""
        rows, numbers, new = np.ascontiguousarray(rows), np.empty(len(rows), dtype=np.int64), []
        known = self._numbers
        for place, key in enumerate(rows.view(f"V{rows.itemsize * rows.shape[1]}").ravel().tolist()):
            number = known.get(key)
            if number is None:
                number = known[key] = len(known)
                new.append(place)
            numbers[place] = number
        return numbers, np.array(new, dtype=np.int64)


class Known(NamedTuple):
    """What a layer does with the inputs seen so far; `Choices` row by row."""

    choices: Choices
    interner: Interner


class Classes(NamedTuple):
    """number (I, K), from 1 on, is the class of what an input writes to an entry; low and high (1 + C,) are the ends of
    classes, zero first."""

    number: NDArray[np.int32]
    low: Array
    high: Array

    def values(self, symbols: Symbols) -> tuple[Array, Array]:
        """What symbols stand for, with radii."""
        place, sign = np.abs(symbols), np.sign(symbols)
        low, high = self.low[place], self.high[place]
        return (low + high) / 2 * sign, (high - low) / 2 * (1 + 1e-12)


class Machine:
    """Steps and read-outs of a hard network, many states at a time.

    A state is one row of symbols: all entries of the lower layers, then those of the tracked blocks of the last one.

    Args:
        network: the arrays.
        tokens: what may come; only these have to have decided gates.
        tracked: (N,) blocks of the last layer that states hold; None for all.
        classes: of written values, for a network of one layer.
    """

    def __init__(
        self,
        network: Network,
        tokens: Tokens,
        tracked: NDArray[np.bool_] | None = None,
        classes: Classes | None = None,
    ) -> None:
        self.network, self.tokens, self.classes = network, tokens, classes
        last = network.layers[-1]
        blocks = np.ones(last.n_blocks, dtype=bool) if tracked is None else tracked
        self.columns = [np.arange(layer.size) for layer in network.layers]
        self.columns[-1] = np.flatnonzero(np.repeat(blocks, last.m))
        self.loose = np.flatnonzero(np.repeat(~blocks, last.m))
        self.ends = np.cumsum([len(c) for c in self.columns])
        self.width = int(self.ends[-1])
        # A token's choices stand at its number; tokens that cannot come choose like the first that can.
        every = np.full(len(network.embedding), tokens[0])
        every[tokens] = tokens
        try:
            first = network.layers[0].choose(network.embed(every), 0, network.rounding)
        except Undecided as undecided:
            undecided.place = int(every[undecided.place])
            raise
        self.known = [Known(first, Interner()), *(Known(_none(layer.size), Interner()) for layer in network.layers[1:])]
        self.origins: list[NDArray[np.int32]] = [np.zeros((0, int(e) + 1), np.int32) for e in self.ends[:-1]]

    def start(self) -> Symbols:
        """The state before the first token."""
        return np.zeros((1, self.width), dtype=np.int32)

    def advance(self, states: Symbols, tokens: Tokens) -> tuple[Symbols, Tokens]:
        """States (P, width) after tokens (P,), and the numbers of the last layer's inputs."""
        after = np.empty_like(states)
        begin, numbers = 0, tokens
        for index, end in enumerate(self.ends):
            if index:
                numbers = self._number(index, tokens, after[:, :begin])
            after[:, begin:end] = self._copy(index, states[:, begin:end], numbers)
            begin = int(end)
        return after, numbers

    def _copy(self, index: int, states: Symbols, numbers: Tokens) -> Symbols:
        columns, size = self.columns[index], self.network.layers[index].size
        choices = self.known[index].choices
        place = np.full(size + 1, -1)  # the last one is that of source -1
        place[columns] = np.arange(len(columns))
        source = place[choices.source[numbers[:, None], columns]]
        if (len(choices.source) + 1) * size >= 2**31:
            raise NotImplementedError("certify: more values than symbols of 32 bits can number; ask for fewer states")
        if self.classes is None:
            written = (1 + numbers[:, None] * size + columns).astype(np.int32)
        else:
            written = self.classes.number[numbers[:, None], columns]
        copied = np.take_along_axis(states, np.maximum(source, 0), 1) if len(columns) else states
        after = np.where(source < 0, written, copied) * choices.sign[numbers[:, None], columns]
        return after.astype(np.int32, copy=False)

    def _number(self, index: int, tokens: Tokens, below: Symbols) -> Tokens:
        rows = np.concatenate([tokens[:, None].astype(np.int32), below], 1)
        known = self.known[index]
        numbers, new = known.interner.add(rows)
        if len(new):
            x = self._stream(tokens[new], below[new], index)
            try:
                choices = self.network.layers[index].choose(x, index, self.network.rounding)
            except Undecided as undecided:
                undecided.place = int(tokens[new][undecided.place])
                raise
            pairs: Any = zip(known.choices, choices, strict=True)
            joined = Choices(*map(np.concatenate, pairs))
            self.known[index] = Known(joined, known.interner)
            self.origins[index - 1] = np.concatenate([self.origins[index - 1], rows[new]])
        return numbers

    def values(self, index: int, symbols: Symbols) -> tuple[Array, Array]:
        """What symbols of a layer stand for, with radii."""
        if self.classes is not None:
            return self.classes.values(symbols)
        choices = self.known[index].choices
        place = np.maximum(np.abs(symbols) - 1, 0)
        return choices.value.ravel()[place] * np.sign(symbols), choices.radius.ravel()[place] * (symbols != 0)

    def _stream(self, tokens: Tokens, states: Symbols, layers: int) -> Spread:
        """The residual stream (P, D) behind the first `layers` layers, which have come to `states`."""
        x, begin = self.network.embed(tokens), 0
        for index, end in enumerate(self.ends[:layers]):
            x = self.network.after(x, index, *self.values(index, states[:, begin:end]))
            begin = int(end)
        return x

    def read(
        self,
        states: Symbols,
        tokens: Tokens,
        targets: Tokens,
        around: tuple[Array, Array] | None = None,
        drift: Callable[[Array, Array], Array] | None = None,
    ) -> tuple[Array, Array]:
        """Margins (P, V) of targets after tokens that have led to states, as values and radii.

        around: middle and half width (P, loose entries) of what is not tracked. drift: makes of the values and radii
        (P, K) of the last layer the radii that hold for soft gates.
        """
        last = len(self.network.layers) - 1
        lower = int(self.ends[-2]) if last else 0
        x = self._stream(tokens, states, last)
        value = np.zeros((len(states), self.network.layers[last].size))
        radius = np.zeros_like(value)
        columns = self.columns[last]
        value[:, columns], radius[:, columns] = self.values(last, states[:, lower:])
        if around is not None:
            value[:, self.loose], radius[:, self.loose] = around
        if drift is not None:
            radius = drift(value, radius)
        x = self.network.after(x, last, value, radius)
        return margins(x, self.network.norm, self.network.head, targets, self.network.rounding)


def _none(size: int) -> Choices:
    types = (np.int32, np.int8, np.float64, np.float64, np.float64, np.bool_)
    return Choices(*(np.zeros((0, size), dtype=t) for t in types))
