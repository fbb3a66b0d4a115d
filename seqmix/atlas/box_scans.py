"""What boxes need of layers: where a state begins, what a token makes of a box, and what is read in it.

All numbers of tokens are known up to radii that cover rounding in the model's own type, as certificates have them
(`seqmix.inspect.certificates.bounds`), and twice that, so that who checks boxes may sum in another order. Some things
are exact whatever rounding does, and add nothing to a box, step after step: a sum of zeros; softplus, sigmoid, silu and
exp of numbers whose exp is zero in this type; exp next to zero, which is one; 2 e - 1 where e is next to nothing; a
product with 0, 1 or -1, and a sum of which one part at most is not zero.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from seqmix.inspect.certificates.bounds import Norm, Rounding, exactly, normed_linear, silu_times
from seqmix.models import SequenceModel

__all__ = ["Ends", "MambaBoxes", "PDSSMBoxes", "array", "products"]

Array = NDArray[np.float64]


class Ends(NamedTuple):
    """Low and high ends of numbers."""

    low: Array
    high: Array

    @property
    def size(self) -> Array:
        return np.maximum(np.abs(self.low), np.abs(self.high))

    @property
    def zero(self) -> NDArray[np.bool_]:
        return (self.low == 0) & (self.high == 0)

    def wider(self, room: Array | float) -> "Ends":
        return Ends(self.low - room, self.high + room)

    def where(self, condition: NDArray[np.bool_], value: float) -> "Ends":
        """The same, but exactly a value under a condition."""
        return Ends(np.where(condition, value, self.low), np.where(condition, value, self.high))


def array(tensor: Any) -> Array:
    return tensor.detach().cpu().double().numpy()


def products(a: Ends, b: Ends) -> Ends:
    """Of all that lies between the ends."""
    corners = np.stack([a.low * b.low, a.low * b.high, a.high * b.low, a.high * b.high])
    return Ends(corners.min(0), corners.max(0))


class _Scan:
    """Rounding of a model, and maps of its tokens (V,)."""

    def __init__(self, model: SequenceModel) -> None:
        self.rounding = Rounding.of(next(model.parameters()).dtype)
        self.embedding = array(model.embedding.weight)
        block: Any = model.blocks[0]
        self.norm = Norm(array(block.mixer_norm.weight), block.mixer_norm.eps)

    def of_tokens(self, weight: Array, bias: Array | float = 0.0) -> Ends:
        """weight (k, D) times what the norm makes of tokens, (V, k)."""
        value, radius = normed_linear(exactly(self.embedding), self.norm, weight, bias, self.rounding)
        found = Ends(value - 2 * radius, value + 2 * radius)
        return found.where((weight == 0).all(1) & (np.zeros(len(weight)) == bias), 0.0)

    def linear(self, weight: Array, x: Ends, bias: Array | float = 0.0) -> Ends:
        """weight (k, n) times x (..., n)."""
        up, down = np.maximum(weight, 0), np.minimum(weight, 0)
        sizes = x.size @ np.abs(weight).T
        room = 2 * self.rounding.gamma(weight.shape[1]) * (sizes + np.abs(bias)) + 2 * self.rounding.least
        found = Ends(x.low @ up.T + x.high @ down.T + bias, x.high @ up.T + x.low @ down.T + bias)
        return found.wider(room).where((sizes == 0) & (np.zeros(len(weight)) == bias), 0.0)

    def rounded(self, x: Ends, most: Array | None = None) -> Ends:
        """After a few operations on numbers of this size, or of another."""
        size = x.size if most is None else most
        return x.wider(2 * self.rounding.gamma(1) * size + 2 * self.rounding.least).where(size == 0, 0.0)

    def through(self, function: Callable[[Array], Array], x: Ends) -> Ends:
        """A function that rises."""
        found = Ends(function(x.low), function(x.high))
        return found.wider(2 * self.rounding.gamma(1) * found.size + 2 * self.rounding.least)

    def silu(self, x: Ends) -> Ends:
        middle, half = (x.low + x.high) / 2, (x.high - x.low) / 2
        value, radius = silu_times(middle, half, np.ones_like(middle), np.zeros_like(middle), self.rounding)
        found = Ends(value - 2 * radius, value + 2 * radius)
        return found.where(x.zero | (x.high < self.rounding.vanishes), 0.0)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-np.clip(x, -700, 700)))


class MambaBoxes(_Scan):
    """Mamba without a convolution: s <- a s + w, y = W_out ((s C + D u) silu(z))."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__(model)
        m: Any = model.blocks[0].mixer
        self.n, self.inner, unit = m.d_state, m.d_inner, self.rounding.unit
        self.size, self.out = self.n * self.inner, array(m.out_proj.weight)
        u, z = (self.of_tokens(each) for each in np.split(array(m.in_proj.weight), 2))
        taps = array(m.conv1d.weight)[:, 0, 0]
        bias = 0.0 if m.conv1d.bias is None else array(m.conv1d.bias)
        scaled = products(u, Ends(taps, taps))
        u = self.silu(self.rounded(Ends(scaled.low + bias, scaled.high + bias), scaled.size + np.abs(bias)))
        seen = self.linear(array(m.x_proj.weight), u)
        r, b, c = (
            Ends(low, high)
            for low, high in zip(*(np.split(e, [m.dt_rank, m.dt_rank + self.n], -1) for e in seen), strict=True)
        )
        before = self.linear(array(m.dt_proj.weight), r, array(m.dt_proj.bias))
        dt = self.through(lambda x: np.logaddexp(0, x), before).where(before.high < self.rounding.vanishes, 0.0)
        dt, rates = Ends(np.maximum(dt.low, 0)[..., None], dt.high[..., None]), -np.exp(array(m.A_log))
        power = self.rounded(products(dt, Ends(rates, rates)))
        e = self.through(np.exp, power)
        e = Ends(np.maximum(e.low, 0), e.high).where(power.high < self.rounding.vanishes, 0.0)
        e = e.where(power.size < unit / 8, 1.0)
        if m.eigenvalues == "signed":
            a = self.rounded(Ends(2 * e.low - 1, 2 * e.high - 1), 2 * e.size + 1)
            a = a.where(e.zero | (e.high < unit / 8), -1.0).where(power.size < unit / 8, 1.0)
        else:
            a = e
        write = products(products(dt, Ends(*(x[..., None] for x in u))), Ends(b.low[:, None], b.high[:, None]))
        self.a, self.w = (Ends(*(x.reshape(len(x), -1) for x in each)) for each in (a, self.rounded(write)))
        self.c, self.gate = c, self.silu(z)
        skip = array(m.D)
        self.skip = self.rounded(products(u, Ends(skip, skip)))

    def start(self) -> Array:
        return np.zeros(self.size)

    def step(self, token: int, low: Array, high: Array) -> tuple[Array, Array]:
        """Boxes (B, n) after a token."""
        a, w = Ends(self.a.low[token], self.a.high[token]), Ends(self.w.low[token], self.w.high[token])
        kept = products(a, Ends(low, high))
        exact = (a.low == a.high) & np.isin(a.low, (-1.0, 0.0, 1.0)) & (w.zero | (a.low == 0))
        after = Ends(kept.low + w.low, kept.high + w.high)
        room = 2 * self.rounding.gamma(2) * (kept.size + w.size) + 2 * self.rounding.least
        return tuple(after.wider(np.where(exact, 0.0, room)))  # type: ignore[return-value]

    def said(self, tokens: NDArray[np.int64], low: Array, high: Array) -> list[tuple[Array, Ends]]:
        """What is added to the stream: matrices (D, k) and what they are multiplied with, (P, k)."""
        state = Ends(low.reshape(-1, self.inner, self.n), high.reshape(-1, self.inner, self.n))
        read = products(state, Ends(self.c.low[tokens][:, None], self.c.high[tokens][:, None]))
        skip = Ends(self.skip.low[tokens], self.skip.high[tokens])
        total = Ends(read.low.sum(-1) + skip.low, read.high.sum(-1) + skip.high)
        total = total.wider(2 * self.rounding.gamma(self.n + 2) * (read.size.sum(-1) + skip.size))
        return [(self.out, self.rounded(products(total, Ends(self.gate.low[tokens], self.gate.high[tokens]))))]


class PDSSMBoxes(_Scan):
    """PD-SSM: tokens send entries to places, times D, and add B x; the state is real parts, then imaginary ones."""

    def __init__(self, model: SequenceModel) -> None:
        super().__init__(model)
        m: Any = model.blocks[0].mixer
        self.n, self.size, self.out = m.d_state, 2 * m.d_state, array(m.out_proj.weight)
        self.places = self._places(m)
        grow, turn = (self._hidden(part) for part in (m.magnitude, m.phase))
        big, unit = -np.log(self.rounding.unit / 4), self.rounding.unit
        magnitude = self.through(_sigmoid, grow).where(grow.low > big, 1.0)
        angle = self.through(_sigmoid, turn).where(turn.high < self.rounding.vanishes, 0.0)
        angle = self.rounded(Ends(2 * np.pi * angle.low, 2 * np.pi * angle.high))
        # Cosine and sine are no steeper than one; at zero they are exact.
        middle, half = (angle.low + angle.high) / 2, (angle.high - angle.low) / 2 + 64 * unit
        still = angle.zero
        across = Ends(np.cos(middle) - half, np.cos(middle) + half).where(still, 1.0)
        up = Ends(np.sin(middle) - half, np.sin(middle) + half).where(still, 0.0)
        parts = (products(magnitude, each) for each in (across, up))
        whole = still & (magnitude.low == 1) & (magnitude.high == 1)
        self.real, self.imaginary = (
            self.rounded(each).where(whole, value) for each, value in zip(parts, (1.0, 0.0), strict=True)
        )
        self.written = self.of_tokens(array(m.in_proj.weight))
        skip = array(m.F)
        value, radius = normed_linear(exactly(self.embedding), self.norm, np.diag(skip), 0.0, self.rounding)
        self.skip = Ends(value - 2 * radius, value + 2 * radius)

    def _hidden(self, part: Any) -> Ends:
        first, _, last = part
        x = self.of_tokens(array(first.weight), array(first.bias))
        middle, half = (x.low + x.high) / 2, (x.high - x.low) / 2
        # GELU is no steeper than 1.13.
        gelu = middle * (1 + np.vectorize(math.erf)(middle / math.sqrt(2))) / 2
        room = 1.13 * half + 2 * self.rounding.gamma(1) * (np.abs(middle) + half)
        return self.linear(array(last.weight), Ends(gelu - room, gelu + room), array(last.bias))

    def _places(self, m: Any) -> NDArray[np.int64]:
        """Where each token sends each entry (V, N), -1 where rounding may decide it."""
        logits = self.of_tokens(array(m.select_proj.weight))
        middle, doubt = (logits.low + logits.high) / 2, (logits.high - logits.low).max(-1, keepdims=True)
        weights = np.exp(middle - middle.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        rooms = weights * (np.expm1(doubt) + 2 * self.rounding.gamma(len(m.dictionary))) + 2 * self.rounding.least
        dictionary = array(m.dictionary)
        found = np.empty((len(weights), self.n), dtype=np.int64)
        for token, (weight, room) in enumerate(zip(weights, rooms, strict=True)):
            matrix = np.tensordot(weight, dictionary, 1)
            radius = np.tensordot(room, np.abs(dictionary), 1)
            place = matrix.argmax(0)
            columns = np.arange(self.n)
            others = matrix + radius
            others[place, columns] = -np.inf
            decided = matrix[place, columns] - radius[place, columns] > others.max(0)
            found[token] = np.where(decided, place, -1)
        return found

    def start(self) -> Array:
        return np.eye(1, self.size)[0]

    def step(self, token: int, low: Array, high: Array) -> tuple[Array, Array]:
        """Boxes (B, 2 n) after a token; without bounds where its places are not decided."""
        n, places = self.n, self.places[token]
        if (places < 0).any():
            return np.full_like(low, -np.inf), np.full_like(high, np.inf)
        re, im = Ends(low[:, :n], high[:, :n]), Ends(low[:, n:], high[:, n:])
        d, e = (Ends(each.low[token], each.high[token]) for each in (self.real, self.imaginary))
        whole = (d.low == 1) & (d.high == 1) & e.zero
        to = np.eye(n)[places]  # (from, to)
        ends: list[Array] = []
        for a, b, sign, part in ((re, im, -1, slice(0, n)), (im, re, 1, slice(n, 2 * n))):
            one, other = products(d, a), products(e, b)
            moved = (
                Ends(one.low - other.high, one.high - other.low)
                if sign < 0
                else Ends(one.low + other.low, one.high + other.high)
            )
            moved = moved.wider(np.where(whole, 0.0, 2 * self.rounding.gamma(1) * (one.size + other.size)))
            add = Ends(self.written.low[token, part], self.written.high[token, part])
            sizes, count = moved.size @ to + add.size, (moved.size > 0) @ to + (add.size > 0)
            room = 2 * self.rounding.gamma(n) * sizes + 2 * self.rounding.least
            total = Ends(moved.low @ to + add.low, moved.high @ to + add.high).wider(np.where(count > 1, room, 0.0))
            ends.append(np.stack([total.low, total.high]))
        found = np.concatenate(ends, -1)
        return found[0], found[1]

    def said(self, tokens: NDArray[np.int64], low: Array, high: Array) -> list[tuple[Array, Ends]]:
        """What is added to the stream: matrices (D, k) and what they are multiplied with, (P, k)."""
        return [
            (self.out, Ends(low, high)),
            (np.eye(self.out.shape[0]), Ends(self.skip.low[tokens], self.skip.high[tokens])),
        ]
