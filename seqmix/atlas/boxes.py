"""Boxes: a layer is right at every length where intervals of its state, one for each state before and letter, close.

A box holds every state that the layer can be in after letter x in the automaton's state q, rounding included. One step
makes boxes of boxes: sums by middles and half widths, sigmoid and tanh from end to end, products by their corners. What
comes of boxes is joined to those that are there, and made wider where that goes on; where nothing changes any more, and
the right answer leads all over every box, induction over the length makes every word right. For an LSTM that closes
where units are saturated; for the layers of `seqmix.atlas.box_scans` where entries are copied, mirrored and set
exactly, or shrink.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.atlas.box_scans import Ends, MambaBoxes, PDSSMBoxes, array, products
from seqmix.atlas.plain import is_plain
from seqmix.inspect.certificates.bounds import Norm, Rounding, exactly, margins, plus
from seqmix.mixers.lstm import LSTM
from seqmix.mixers.mamba import Mamba
from seqmix.mixers.pd_ssm import PDSSM
from seqmix.models import SequenceModel
from seqmix.tasks.automata import IGNORE, Automaton

__all__ = ["Boxes", "boxable", "boxes_of"]

Array = NDArray[np.float64]
_SLACK = 256  # units of roundoff on each sigmoid, tanh and product, outward
_ROUNDS, _PATIENT = 60, 10
_MOST = 1 << 20  # numbers in all boxes
_FAR = 1e30


class Boxes(NamedTuple):
    """keys (B, 2): states before and tokens, the BOS first; low and high (B, n): ends of the state's numbers."""

    keys: NDArray[np.int64]
    low: Array
    high: Array


def boxable(model: SequenceModel) -> bool:
    """Whether a model is one layer that boxes know, without an MLP, between layer norms and a language head."""
    mixer = model.blocks[0].mixer
    windowed = type(mixer) is Mamba and mixer.d_conv > 1
    return is_plain(model) and type(mixer) in _LAYERS and not windowed


def boxes_of(model: SequenceModel, automaton: Automaton) -> Boxes | None:
    """Boxes that close and answer rightly, or None; `NotImplementedError` for other models than `boxable`."""
    if not boxable(model):
        raise NotImplementedError(
            "boxes: one layer of lstm, pd-ssm or mamba, without an MLP or convolution, is treated"
        )
    step = automaton.step
    reached, keys = {automaton.start}, [(q, int(x)) for q in (automaton.start,) for x in np.flatnonzero(step[q] >= 0)]
    for q, x in keys:
        after = int(step[q, x])
        if after not in reached:
            reached.add(after)
            keys += [(after, int(y)) for y in np.flatnonzero(step[after] >= 0)]
    with np.errstate(over="ignore", invalid="ignore"):
        layer = _LAYERS[type(model.blocks[0].mixer)](model)
        return None if len(keys) * layer.size > _MOST else _closed(layer, model, automaton, np.array(keys))


def _closed(layer: Any, model: SequenceModel, automaton: Automaton, keys: NDArray[np.int64]) -> Boxes | None:
    states, tokens = keys.T
    ends = automaton.step[states, tokens]
    start = layer.start()[None]
    low, high = np.full((len(keys), layer.size), np.inf), np.full((len(keys), layer.size), -np.inf)
    for number in range(_ROUNDS):
        old = low.copy(), high.copy()
        for place, q in enumerate(states.tolist()):
            # From each box that leads to the state before, and from the start.
            of = (ends == q) & np.isfinite(old[0][:, 0])
            first = start if q == automaton.start else start[:0]
            before = [np.concatenate([first, each[of]]) for each in old]
            if len(before[0]):
                lower, higher = layer.step(int(tokens[place]), *before)
                if not ((np.abs(lower) < _FAR) & (np.abs(higher) < _FAR)).all():
                    return None
                low[place] = np.minimum(low[place], lower.min(0))
                high[place] = np.maximum(high[place], higher.max(0))
        if np.array_equal(low, old[0]) and np.array_equal(high, old[1]):
            found = Boxes(keys, low, high)
            return found if _right(layer, model, found, automaton) else None
        if number >= _PATIENT:
            room = 1e-6 * 2.0 ** (number - _PATIENT)
            low = np.where(low < old[0], low - room, low)
            high = np.where(high > old[1], high + room, high)
    return None


def _right(layer: Any, model: SequenceModel, boxes: Boxes, automaton: Automaton) -> bool:
    """Whether the right answer leads all over every box."""
    states, tokens = boxes.keys.T
    targets = automaton.output[states, tokens]
    asked = targets != IGNORE
    rounding = Rounding.of(next(model.parameters()).dtype)
    stream = exactly(array(model.embedding.weight)[tokens[asked]])
    for matrix, (low, high) in layer.said(tokens[asked], boxes.low[asked], boxes.high[asked]):
        stream = plus(stream, matrix, (low + high) / 2, (high - low) / 2, rounding)
    last: Any = model.norm
    head = array((model.embedding if model.head is None else model.head).weight)
    value, radius = margins(stream, Norm(array(last.weight), last.eps), head, targets[asked], rounding)
    return bool((value - radius > 0).all())


class LSTMBoxes:
    """The layer in float64, and what rounding in the model's own type may add; boxes are ends of h, then of c."""

    def __init__(self, model: SequenceModel) -> None:
        mixer: Any = model.blocks[0].mixer
        self.rounding = Rounding.of(next(model.parameters()).dtype)
        self.n, self.size, self.slack = mixer.d_state, 2 * mixer.d_state, _SLACK * self.rounding.unit
        self.out = array(mixer.out_proj.weight)
        norm: Any = model.blocks[0].mixer_norm
        x = array(model.embedding.weight)
        x = x - x.mean(1, keepdims=True)
        x = x / np.sqrt((x**2).mean(1, keepdims=True) + norm.eps) * array(norm.weight)
        w_in, self.w, bias = array(mixer.weight_ih), array(mixer.weight_hh), array(mixer.bias)
        self.base = x @ w_in.T + bias
        sizes = np.abs(x) @ np.abs(w_in).T + np.abs(bias)
        self.doubt = self.rounding.gamma(x.shape[1] + self.n) * (2 * sizes + 1)

    def start(self) -> Array:
        return np.zeros(self.size)

    def step(self, token: int, low: Array, high: Array) -> tuple[Array, Array]:
        """Boxes (B, 2 n) after a token."""
        n, middle, half = self.n, (low + high)[:, : self.n] / 2, (high - low)[:, : self.n] / 2
        z = self.base[token] + middle @ self.w.T
        reach = (np.abs(middle) + half) @ np.abs(self.w).T
        radius = half @ np.abs(self.w).T + self.doubt[token] + self.rounding.gamma(n + 16) * reach
        ends = np.stack([z - radius, z + radius]).reshape(2, -1, 4, n)
        gates = 1 / (1 + np.exp(-np.clip(ends, -700, 700)))
        gates[:, :, 2] = np.tanh(ends[:, :, 2])
        gates = gates + np.array([-1, 1])[:, None, None, None] * self.slack
        i, f, g, o = (Ends(*gates[:, :, k]) for k in range(4))
        kept, new = products(f, Ends(low[:, n:], high[:, n:])), products(i, g)
        c = Ends(kept.low + new.low, kept.high + new.high).wider(self.slack * (1 + kept.size + new.size))
        h = products(o, Ends(np.tanh(c.low), np.tanh(c.high)).wider(self.slack)).wider(self.slack)
        return np.concatenate([h.low, c.low], -1), np.concatenate([h.high, c.high], -1)

    def said(self, tokens: NDArray[np.int64], low: Array, high: Array) -> list[tuple[Array, Ends]]:
        """What is added to the stream: a matrix (D, n) and what it is multiplied with, (P, n)."""
        return [(self.out, Ends(low[:, : self.n], high[:, : self.n]))]


_LAYERS: dict[type, Callable[[SequenceModel], Any]] = {LSTM: LSTMBoxes, Mamba: MambaBoxes, PDSSM: PDSSMBoxes}
