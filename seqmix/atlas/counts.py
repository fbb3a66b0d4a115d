"""Leads by counts of letters: the horizon of one diagonal layer, exactly.

One layer whose state is affine, h <- A(x) h + b(x), with diagonal A and a read-out that is linear but for the last
norm: then a letter's part in the last state, a(x_n) ... a(x_{t+1}) b(x_t), depends on how often each letter came after
it, not in which order. For the last letter and a pair of answers with direction c the least lead of all words is a
recursion over counts of letters from the end of the word: with j the counts behind and q the automaton's state before,

    V(j + e_x, q) = min over x of  c . (a^j b(x)) + V(j, step(q, x)),   V(0, q) = 0 where the right answer comes of q.

So the shortest wrong word is found exactly, up to rounding: a lead counts as positive where it is larger than what
4 (D + 16) units of roundoff a step make of it.
"""

import copy
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seqmix.atlas.plain import is_plain, words_through
from seqmix.models import SequenceModel
from seqmix.tasks.automata import Automaton
from seqmix.tasks.automata.core import Core

__all__ = ["Affine", "affine_of", "by_counts"]

Array = NDArray[np.float64]
_MOST_CELLS = 1 << 22  # counts at one length


class Affine(NamedTuple):
    """For L letters: a, b (L, n), start (n,) behind the BOS; c (L, A, V, n) and d (L, A, V) with c . h + d the lead of
    an answer over a token after a letter that finds h, in units of the last norm; reads (L, A, V, n) and own (L, A, V):
    the sizes of what these are added up from; noise: relative doubt of a step, and of such sums."""

    a: Array
    b: Array
    start: Array
    c: Array
    d: Array
    reads: Array
    own: Array
    answers: list[int]
    noise: float


def affine_of(model: SequenceModel, automaton: Automaton, core: Core) -> Affine:
    """The maps of a model's only layer, probed in float64; `NotImplementedError` where they are not diagonal ones."""
    if not is_plain(model):
        raise NotImplementedError("horizon: one layer without an MLP, between layer norms, is treated")
    wide: Any = copy.deepcopy(model).double().eval()
    block, tokens = wide.blocks[0], [*core.tokens.tolist(), automaton.bos]
    with torch.no_grad():
        embedded = wide.embedding(torch.tensor(tokens))
        inputs = block.mixer_norm(embedded)
        # Where nothing was read a letter may act as it never does again.
        empty = block.mixer.init_state(1, dtype=torch.float64)
        begun = block.mixer.step(inputs[-1:], empty)[1]
        maps = [_probe(block.mixer, x, begun) for x in inputs[:-1]] + [_probe(block.mixer, inputs[-1], empty)]
        scaled = ((wide.embedding if wide.head is None else wide.head).weight * wide.norm.weight).numpy()
    head = scaled - scaled.mean(1, keepdims=True)
    a, b, out, skip = (np.array(each) for each in zip(*maps, strict=True))
    answers = np.unique(core.answers[core.asked]).tolist()
    pairs = head[answers][:, None] - head[None]  # (A, V, D)
    sizes = np.abs(scaled[answers])[:, None] + np.abs(scaled)[None]
    # A token's own part; the norm before the head has no bias.
    own = embedded.numpy() + skip
    c, d = np.einsum("avd,xdn->xavn", pairs, out[:-1]), np.einsum("avd,xd->xav", pairs, own[:-1])
    stream = np.abs(embedded.numpy()) + np.abs(skip)
    reads, parts = np.einsum("avd,xdn->xavn", sizes, np.abs(out[:-1])), np.einsum("avd,xd->xav", sizes, stream[:-1])
    first = a[-1] * _flat(empty)[0] + b[-1]
    _require_these_maps(block.mixer, inputs, a, b, out, skip, first)
    unit = 2.0**-24 if next(model.parameters()).dtype == torch.float32 else 2.0**-53
    return Affine(a[:-1], b[:-1], first, c, d, reads, parts, answers, 4 * unit * (model.d_model + 16))


@torch.no_grad()
def _require_these_maps(mixer: Any, inputs: Any, a: Array, b: Array, out: Array, skip: Array, first: Array) -> None:
    """Letters must act in words as they do alone."""
    words, y = words_through(mixer, inputs)
    h = np.tile(first, (len(words), 1))
    for x, told in zip(words.numpy().T, y.numpy().swapaxes(0, 1), strict=True):
        said = np.einsum("wdn,wn->wd", out[x], h) + skip[x]
        if not np.abs(said - told).max() <= 1e-9 * (1 + np.abs(told).max()):
            raise NotImplementedError("horizon: what a letter does depends on more than the state")
        h = a[x] * h + b[x]


def _flat(state: Any) -> Array:
    leaves = [leaf for leaf in state if leaf.numel() and leaf.is_floating_point()]
    if len(leaves) != 1 or any(leaf.is_complex() for leaf in state):
        raise NotImplementedError("horizon: a state of one real tensor is treated")
    return leaves[0].flatten(1).numpy()


def _probe(mixer: Any, x: Any, state: Any) -> tuple[Array, Array, Array, Array]:
    """a (n,), b (n,), out (D, n) and skip (D,) of one token x (D,), where counts of tokens are those of `state`."""
    n = _flat(state).shape[1]
    draw = np.random.default_rng(0).normal(size=(2, n))
    points = np.concatenate([np.zeros((1, n)), np.eye(n), draw])

    def leaf_of(leaf: torch.Tensor) -> torch.Tensor:
        if not leaf.numel() or not leaf.is_floating_point():
            return leaf.expand(len(points), *leaf.shape[1:]).contiguous()
        return torch.from_numpy(points).reshape(len(points), *leaf.shape[1:])

    y, after = mixer.step(x.expand(len(points), -1), type(state)(*map(leaf_of, state)))
    h, y = _flat(after), y.numpy()
    b, matrix = h[0], (h[1 : n + 1] - h[0]).T
    skip, out = y[0], (y[1 : n + 1] - y[0]).T
    size = 1e-9 * (1 + np.abs(h).max() + np.abs(y).max())
    linear = (
        np.abs(draw @ matrix.T + b - h[n + 1 :]).max() < size and np.abs(draw @ out.T + skip - y[n + 1 :]).max() < size
    )
    if not linear or np.abs(matrix - np.diag(np.diag(matrix))).max() > size:
        raise NotImplementedError("horizon: the state or what is read is not affine, or not diagonal")
    return np.diag(matrix).copy(), b, out, skip


def by_counts(affine: Affine, core: Core, longest: int) -> tuple[int, list[int] | None]:
    """The last length at which every lead is positive beyond doubt, and a shortest word with a lead below zero."""
    letters = len(core.tokens)
    shape = affine.c.shape[:3]
    # A last letter, its answer and another answer: columns of all that follows.
    last = [(x, i, k) for x, i, k in np.ndindex(*shape) if k != affine.answers[i]]
    wanted = (affine.c, affine.d, affine.reads, affine.own)
    c, d, reads, own = (np.array([each[place] for place in last]) for each in wanted)
    right = np.array([core.answers[core.step[:, x]] == affine.answers[i] for x, i, _ in last])  # (P, Q)
    low, high, error = affine.start, affine.start, affine.noise * np.abs(affine.start)
    value, steps, safe, proved = np.where(right, 0.0, np.inf)[:, None], [], 0, True
    for n in range(1, longest + 1):
        # n - 1 letters before the last one: how many of each but the last kind; what is over is of that.
        counts = np.indices((n,) * (letters - 1)).reshape(letters - 1, -1)
        counts = np.concatenate([counts, n - 1 - counts.sum(0, keepdims=True)])  # (L, cells)
        if counts.shape[1] * len(last) > _MOST_CELLS:
            break
        if n > 1:
            value, step = _onward(affine, core, c, counts, value, n)
            steps.append(step)
            # Ends of what entries can be, and what rounding makes of them: a step's doubt, and what is left of others.
            ends = np.stack([affine.a * low + affine.b, affine.a * high + affine.b])
            low, high = np.minimum(low, ends.min((0, 1))), np.maximum(high, ends.max((0, 1)))
            size = np.maximum(np.abs(low), np.abs(high)) + np.abs(affine.b).max(0)
            error = np.abs(affine.a).max(0) * error + affine.noise * size
        lead = value[:, :, 0] + c @ (_powers(affine, counts) * affine.start).T + d[:, None]  # (P, cells)
        reach = reads @ np.maximum(np.abs(low), np.abs(high)) + own
        doubt = (np.abs(c) @ error + affine.noise * reach)[:, None]
        lead = np.where(counts[-1] >= 0, lead, np.inf)
        proved = proved and bool((lead > doubt).all())
        safe = n if proved else safe
        if (lead < -doubt).any():
            pair, place = np.unravel_index(np.argmin(lead + doubt), lead.shape)
            return safe, [*_word(steps, core, int(pair), counts[:, place].tolist()), last[pair][0]]
    return safe, None


def _powers(affine: Affine, counts: NDArray[np.int64]) -> Array:
    """Products of decays (cells, n) of so many letters of each kind."""
    return np.prod([a ** np.maximum(j, 0)[:, None] for a, j in zip(affine.a, counts, strict=True)], 0)


def _onward(
    affine: Affine, core: Core, c: Array, counts: NDArray[np.int64], value: Array, n: int
) -> tuple[Array, NDArray[np.int8]]:
    """V one letter longer, (P, cells, Q), and the letter that makes it."""
    best = np.full((len(c), counts.shape[1], core.n_states), np.inf)
    which = np.zeros(best.shape, dtype=np.int8)
    for x in range(len(core.tokens)):
        behind = counts - (np.arange(len(counts)) == x)[:, None]
        part = c @ (_powers(affine, behind) * affine.b[x]).T  # (P, cells)
        place = np.zeros(counts.shape[1], dtype=np.int64)
        for j in behind[:-1]:
            place = place * (n - 1) + j.clip(0, n - 2)
        total = part[:, :, None] + value[:, place][:, :, core.step[:, x]]
        total = np.where((behind >= 0).all(0)[:, None], total, np.inf)
        which = np.where(total < best, np.int8(x), which)
        best = np.minimum(best, total)
    return best, which


def _word(steps: list[NDArray[np.int8]], core: Core, pair: int, counts: list[int]) -> list[int]:
    """The letters before the last one of the least lead with these counts."""
    word, state = [], 0
    for n in range(len(steps), 0, -1):
        place = 0
        for j in counts[:-1]:
            place = place * (n + 1) + j
        word.append(int(steps[n - 1][pair, place, state]))
        state = int(core.step[state, word[-1]])
        counts[word[-1]] -= 1
    return word
