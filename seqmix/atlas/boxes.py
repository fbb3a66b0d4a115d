"""Boxes: an LSTM is right at every length where intervals of its state, one for each state before and letter, close.

A box holds every state that the layer can be in after letter x in the automaton's state q, rounding included. One step
makes boxes of boxes: sums by middles and half widths, sigmoid and tanh from end to end, products by their corners. What
comes of boxes is joined to those that are there, and made wider where that goes on; where nothing changes any more, and
the right answer leads all over every box, induction over the length makes every word right.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.bounds import Norm, Rounding, exactly, margins, plus
from seqmix.mixers.lstm import LSTM
from seqmix.models import SequenceModel
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["Boxes", "boxes_of", "only_lstm"]

Array = NDArray[np.float64]
_SLACK = 256  # units of roundoff on each sigmoid, tanh and product, outward
_ROUNDS, _PATIENT = 60, 10
_MOST = 1 << 22  # numbers in all boxes


class Boxes(NamedTuple):
    """keys (B, 2): states before and tokens, the BOS first; low and high (B, 2 n): ends of h, then of c."""

    keys: NDArray[np.int64]
    low: Array
    high: Array


def only_lstm(model: SequenceModel) -> bool:
    """Whether a model is one LSTM layer without an MLP, between layer norms and a language head."""
    block: Any = model.blocks[0]
    plain = block.mlp is None and block.glu is None and model.head_name == "language" and not model.bidirectional
    return model.n_layers == 1 and type(block.mixer) is LSTM and plain and hasattr(model.norm, "eps")


def boxes_of(model: SequenceModel, automaton: Automaton) -> Boxes | None:
    """Boxes that close and answer rightly, or None; `NotImplementedError` for other models than `only_lstm`."""
    if not only_lstm(model):
        raise NotImplementedError("boxes: one layer of lstm without an MLP is treated")
    step = automaton.step
    reached, keys = {automaton.start}, [(q, int(x)) for q in (automaton.start,) for x in np.flatnonzero(step[q] >= 0)]
    for q, x in keys:
        after = int(step[q, x])
        if after not in reached:
            reached.add(after)
            keys += [(after, int(y)) for y in np.flatnonzero(step[after] >= 0)]
    if len(keys) * model.blocks[0].mixer.d_state > _MOST:  # type: ignore[union-attr, operator]
        return None
    layer = _Layer(model)
    states, tokens = np.array(keys).T
    ends = step[states, tokens]
    low, high = np.full((len(keys), 2 * layer.n), np.inf), np.full((len(keys), 2 * layer.n), -np.inf)
    zero = np.zeros(2 * layer.n)
    for number in range(_ROUNDS):
        old = low.copy(), high.copy()
        for place, q in enumerate(states.tolist()):
            # From each box that leads to the state before, and from nothing at the start.
            starts = [(zero, zero)] if q == automaton.start else []
            of = np.flatnonzero((ends == q) & np.isfinite(old[0][:, 0]))
            for before in [*starts, *zip(old[0][of], old[1][of], strict=True)]:
                lower, higher = layer.step(int(tokens[place]), *before)
                low[place], high[place] = np.minimum(low[place], lower), np.maximum(high[place], higher)
        if np.array_equal(low, old[0]) and np.array_equal(high, old[1]):
            found = Boxes(np.array(keys), low, high)
            return found if layer.right(found, automaton) else None
        if number >= _PATIENT:
            room = 1e-6 * 2.0 ** (number - _PATIENT)
            low = np.where(low < old[0], low - room, low)
            high = np.where(high > old[1], high + room, high)
    return None


class _Layer:
    """The layer in float64, and what rounding in the model's own type may add."""

    def __init__(self, model: SequenceModel) -> None:
        def array(tensor: Any) -> Array:
            return tensor.detach().cpu().double().numpy()

        mixer: Any = model.blocks[0].mixer
        self.rounding = Rounding.of(next(model.parameters()).dtype)
        self.n, self.slack = mixer.d_state, _SLACK * self.rounding.unit
        self.embedding, self.out = array(model.embedding.weight), array(mixer.out_proj.weight)
        norm: Any = model.blocks[0].mixer_norm
        x = self.embedding - self.embedding.mean(1, keepdims=True)
        x = x / np.sqrt((x**2).mean(1, keepdims=True) + norm.eps) * array(norm.weight)
        w_in, self.w, bias = array(mixer.weight_ih), array(mixer.weight_hh), array(mixer.bias)
        self.base = x @ w_in.T + bias
        sizes = np.abs(x) @ np.abs(w_in).T + np.abs(bias)
        self.doubt = self.rounding.gamma(self.embedding.shape[1] + self.n) * (2 * sizes + 1)
        self.last: Any = model.norm
        self.head = array((model.embedding if model.head is None else model.head).weight)

    def step(self, token: int, low: Array, high: Array) -> tuple[Array, Array]:
        """The box (2 n,) after a token."""
        n, middle, half = self.n, (low + high)[: self.n] / 2, (high - low)[: self.n] / 2
        z = self.base[token] + self.w @ middle
        reach = np.abs(self.w) @ (np.abs(middle) + half)
        radius = np.abs(self.w) @ half + self.doubt[token] + self.rounding.gamma(n + 16) * reach
        ends = np.stack([z - radius, z + radius]).reshape(2, 4, n)
        gates = 1 / (1 + np.exp(-np.clip(ends, -700, 700)))
        gates[:, 2] = np.tanh(ends[:, 2])
        gates = gates + np.array([-1, 1])[:, None, None] * self.slack
        i, f, g, o = (gates[:, k] for k in range(4))
        kept, new = _times(f, np.stack([low[n:], high[n:]])), _times(i, g)
        size = np.abs(kept).max(0) + np.abs(new).max(0)
        c = kept + new + np.array([[-1], [1]]) * self.slack * (1 + size)
        h = _times(o, np.tanh(c) + np.array([[-1], [1]]) * self.slack)
        h = h + np.array([[-1], [1]]) * self.slack
        return np.concatenate([h[0], c[0]]), np.concatenate([h[1], c[1]])

    def right(self, boxes: Boxes, automaton: Automaton) -> bool:
        """Whether the right answer leads all over every box."""
        states, tokens = boxes.keys.T
        targets = automaton.output[states, tokens]
        asked = targets != IGNORE
        middle, half = (boxes.low + boxes.high)[:, : self.n] / 2, (boxes.high - boxes.low)[:, : self.n] / 2
        stream = plus(exactly(self.embedding[tokens[asked]]), self.out, middle[asked], half[asked], self.rounding)
        norm = Norm(self.last.weight.detach().cpu().double().numpy(), self.last.eps)
        value, radius = margins(stream, norm, self.head, targets[asked], self.rounding)
        return bool((value - radius > 0).all())


def _times(a: Array, b: Array) -> Array:
    """Ends (2, n) of products of what lies between ends."""
    corners = np.stack([a[0] * b[0], a[0] * b[1], a[1] * b[0], a[1] * b[1]])
    return np.stack([corners.min(0), corners.max(0)])
