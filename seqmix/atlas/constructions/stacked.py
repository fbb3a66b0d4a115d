"""Two layers of one kind: the lower says which wide letter it is, the upper is made for wide letters.

Both are constructions of one layer, at their places in a wider stream. The first block's MLP makes of token x and of
what the lower layer says a vector of wide letters, A (e_w, -e_w), so large that the next norm sees little else: with
D_w at least 1 where the wide letter is w and at most -1 elsewhere, two units make silu(k D_w) - silu(k (D_w - 1 / 2)),
which is k / 2 or zero in float32. D_w is the logit of the lower layer's answer, less half way to where it is another,
and less for other letters. The upper layer's read-out is the model's, with a mask where answers need the lower state.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from seqmix.atlas.cascades import Upper
from seqmix.atlas.constructions.cell import Array, Cell, Plan
from seqmix.atlas.frame import Place, placed
from seqmix.models import SequenceModel
from seqmix.tasks.automata import Automaton
from seqmix.tasks.automata.core import Core, core_of

__all__ = ["stacked"]

_LARGE, _SMALL = 4096.0, 1 / 64  # A, and the size of what the lower layer says
_STEEP = 512.0  # k
_MASK = 1e3
_LEAST = 1e-3  # of half of what tells a state apart
Make = Callable[[Cell], Plan | None]


def stacked(cell: Cell, upper: Upper, make: Make) -> Plan | None:
    """Two layers that are a cascade, where `make` has weights for both machines."""
    low = Cell(cell.mixer, upper.lower.automaton, core_of(upper.lower.automaton))
    wide = len(upper.lower.told)
    if upper.group is not None:
        above = upper.group[0]
        high = Cell(cell.mixer, above, core_of(above))
    else:
        # Nothing is asked of the automaton but its tokens.
        size = max(wide + 1, cell.vocab_size)
        step, output = np.full((2, size), -1), np.full((2, size), -100)
        step[0, size - 1], step[1, :wide], output[1, :wide] = 1, 1, 0
        above = Automaton("bits", 0, step, output, size - 1)
        zeros = np.zeros((2, wide), dtype=np.int64)
        core = Core(zeros, zeros[:, 0], np.ones(2, dtype=np.bool_), np.arange(wide), True)
        high = Cell(cell.mixer, above, core, bits=upper.bits)
    first = make(low)
    second = None if first is None else make(high)
    if first is None or second is None or (wires := _wires(upper, low, high, make)) is None:
        return None
    says = f"the first layer: {upper.lower.says}, {first.says}; the second: {second.says}"
    return Plan(
        f"{first.name}, {second.name}", says, f"{first.states}; {second.states}",
        first.precision if not first.exact else second.precision, first.exact and second.exact,
        lambda: _build(cell, upper, (low, high), make, wires), 2,
    )  # fmt: skip


class _Wires(NamedTuple):
    """V, R and multiples of both layers, and `_detectors`."""

    sizes: list[tuple[int, int, int]]
    tokens: Array
    reads: Array


def _wires(upper: Upper, low: Cell, high: Cell, make: Make) -> _Wires | None:
    sizes: list[tuple[int, int, int]] = []

    def alone(vocab_size: int, reads: int, multiple: int) -> Place:
        sizes.append((vocab_size, reads, multiple))
        return placed(vocab_size, reads, multiple)

    lower, _ = (_made(make, each._replace(place=alone)) for each in (low, high))
    found = _detectors(lower, upper, low, high, sizes[0][1])
    return None if found is None else _Wires(sizes, *found)


def _build(cell: Cell, upper: Upper, cells: tuple[Cell, Cell], make: Make, wires: _Wires) -> SequenceModel:
    (v1, r1, m1), (v2, r2, m2) = wires.sizes
    width = -(-2 * (v1 + r1 + v2 + r2) // math.lcm(m1, m2)) * math.lcm(m1, m2)
    below, said = width - 2 * (v1 + r1), width - 2 * r1
    scales = (2 / width + 1e-5) ** -0.5, (2 / width * (1 + _LARGE**-2)) ** -0.5
    places = Place(width, below, said, _SMALL, scales[0]), Place(width, 0, 2 * v2, _LARGE, scales[1])
    parts = [
        _made(make, each._replace(place=lambda v, r, m, place=place: place))  # type: ignore[misc]
        for each, place in zip(cells, places, strict=True)
    ]
    mixers = [part.config["mixer"][0] for part in parts]
    # A unit for a wide letter, and for the BOS; two of the MLP's.
    model = SequenceModel(mixers, cell.vocab_size, width, 2, mlp_ratio=2 * v2 / width)
    blocks: Any = model.blocks
    for block, part in zip(blocks, parts, strict=True):
        block.mixer.load_state_dict(part.mixers[0].state_dict())
        for parameter in block.mlp.parameters():
            parameter.detach().zero_()
    gate = torch.zeros(v2, width, dtype=torch.float64)
    gate[:, below : below + v1] = torch.from_numpy(wires.tokens)
    gate[:, said : said + r1] = torch.from_numpy(wires.reads / (2 * _SMALL))
    gate[:, said + r1 : said + 2 * r1] = -gate[:, said : said + r1]
    every = torch.zeros(width, dtype=torch.float64)
    every[below : below + v1] = 1 / scales[0]
    out = torch.eye(v2, dtype=torch.float64) * 2 * _LARGE / _STEEP
    mlp = blocks[0].mlp
    with torch.no_grad():
        model.embedding.weight.copy_(parts[0].embedding.weight[: cell.vocab_size])  # type: ignore[index, operator]
        mlp.gate_up_proj.weight[: 2 * v2] = torch.cat([gate, gate - every * scales[0] / 2]) * _STEEP / scales[0]
        up = mlp.down_proj.weight.shape[1]
        mlp.gate_up_proj.weight[up : up + 2 * v2] = every
        mlp.down_proj.weight[: 2 * v2, : 2 * v2] = torch.cat([torch.cat([out, -out], 1), torch.cat([-out, out], 1)])
        model.head.weight.copy_(_head(cell, upper, parts[1], v2))  # type: ignore[union-attr, operator]
    return model.eval()


def _made(make: Make, cell: Cell) -> SequenceModel:
    found = make(cell)
    assert found is not None
    return found.build()


def _detectors(model: SequenceModel, upper: Upper, low: Cell, high: Cell, r: int) -> tuple[Array, Array] | None:
    """D_w by tokens (W', V1) and by what the lower layer says (W', r), W' all tokens of the upper one; None where it
    does not tell."""
    letters, bos, lower = low.core.tokens, low.automaton.bos, upper.lower
    v, parameter = low.vocab_size, model.head.weight  # type: ignore[union-attr]
    head = parameter.detach().double().numpy()  # type: ignore[operator]
    words = _words(len(letters), len(lower.step))
    with torch.no_grad():
        tokens = torch.from_numpy(np.concatenate([np.full((len(words), 1), bos), letters[words]], 1))
        said = model.blocks[0](model.embedding(tokens))[0].double()[..., 2 * v : 2 * v + r].numpy()
    state, labels = np.zeros(len(words), dtype=np.int64), []
    for x in words.T:
        labels.append(lower.label[state, x])
        state = lower.step[state, x]
    label = np.stack(labels, 1)
    table, reads = np.full((high.vocab_size, v), -2.0), np.zeros((high.vocab_size, r))
    table[high.automaton.bos, bos] = 2
    for w, (answer, x) in enumerate(zip(lower.told, lower.letters, strict=True)):
        here, others = label == w, (label != w) & (lower.letters[label] == x)
        if not here.any():
            continue  # it never comes
        logits, half, middle = np.zeros(said.shape[:2]), 1.0, -1.0
        if others.any():
            # The read-out's own direction, or that from the mean of others.
            means = said[:, 1:][here].mean(0) - said[:, 1:][others].mean(0)
            for way in (2 * head[answer, 2 * v : 2 * v + r], means):
                logits = said @ way
                on, off = logits[:, 1:][here].min(), logits[:, 1:][others].max()
                half, middle = (on - off) / 2, (on + off) / 2
                if half > _LEAST * np.abs(way).max():
                    break
            else:
                return None
            reads[w] = way / half
        table[w] = -2 - logits.max() / half
        table[w, letters[x]] = -middle / half
    return table, reads


def _words(letters: int, states: int) -> NDArray[np.int64]:
    """Words that lead through all states, and end with all pairs of letters."""
    random = np.random.default_rng(0).integers(letters, size=(64, 10 + 4 * states))
    pairs = np.stack(np.unravel_index(np.arange(letters**2), (letters, letters)), 1)
    before = np.resize(random[:, 2:], (len(pairs), random.shape[1] - 2))
    repeated = np.repeat(pairs[:, 1:], random.shape[1] - 2, 1)
    return np.concatenate([random, np.concatenate([before, pairs], 1), np.concatenate([pairs, repeated], 1)])


def _head(cell: Cell, upper: Upper, part: SequenceModel, units: int) -> torch.Tensor:
    """The upper layer's rows, for answers of the whole."""
    head = part.head.weight.detach().double()  # type: ignore[union-attr, operator]
    if upper.group is None:
        rows = head[: cell.vocab_size].clone()
    else:
        _, rest, coset = upper.group
        mask = _MASK * max(1.0, float(head[head > -1e4].abs().max()))
        rows = torch.zeros(cell.vocab_size, head.shape[1], dtype=torch.float64)
        rows[:, :units] = -10 * mask
        for q, answer in enumerate(cell.core.answers.tolist()):
            rows[answer] = head[int(rest[q])]
            rows[answer, : coset.shape[1]] -= mask * torch.from_numpy(~coset[q])
    rows[:, 2 * units :] *= _LARGE
    return rows
