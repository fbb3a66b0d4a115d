"""BD-LRU and H-LRU: entries copy one another, or take a constant.

An entry holds a function of the automaton's states; letter x makes it hold that function after x, which is another
entry's or a constant (`seqmix.atlas.pullbacks`). The gate that copies has a logit of 150, the others none: in float32 a
softmax of -150 is zero and nothing is ever mixed in. A BOS writes the functions' values at the start.
"""

from typing import Any

import numpy as np

from seqmix.atlas.constructions.cell import Cell, Plan
from seqmix.atlas.frame import write
from seqmix.atlas.pullbacks import Family, Function, chains, family
from seqmix.atlas.separate import read_out
from seqmix.models import SequenceModel

__all__ = ["bd_lru", "h_lru"]

_HARD = 150.0
_PRECISION = "every length, in float32 as over the reals"


def bd_lru(cell: Cell) -> Plan | None:
    """Blocks of entries that copy one another."""
    normalization = cell.mixer.options["normalization"]
    if normalization not in ("softmax", "l1", "linear") or not cell.mixer.options["selective"]:
        return None
    signed = normalization != "softmax"
    found = family(cell.core, cell.mixer.sizes.get("block_size"), signed=signed)
    if found is None:
        return None
    m = cell.mixer.sizes.get("block_size", found.size)
    size = cell.given("d_state", m * len(found.blocks))
    if size is None or size % m:
        return None
    says = f"{len(found.blocks)} blocks of {m} entries copy one another" + (", up to signs" if signed else "")
    build = lambda: _bd_lru(cell, found, m, size, signed)  # noqa: E731
    return Plan("copies", says, "functions of the automaton's states, as 1 and -1", _PRECISION, True, build)


def _bd_lru(cell: Cell, found: Family, m: int, size: int, signed: bool) -> SequenceModel:
    letters = cell.letters
    logits = np.zeros((size, m + 1, letters + 1))
    values = np.zeros((size, letters + 1))
    columns = []
    for number, block in enumerate(found.blocks):
        for i, f in enumerate(block):
            entry = number * m + i
            columns.append(entry)
            logits[entry, m, letters], values[entry, letters] = _HARD, f[0]
            for x in range(letters):
                after = f[cell.core.step[:, x]]
                if (after == after[0]).all() and (not signed or after[0] != 0):
                    logits[entry, m, x], values[entry, x] = _HARD, after[0]
                elif (after == after[0]).all():
                    logits[entry, m, x] = _HARD  # a constant of zero
                else:
                    slot, sign = _slot(block, after, signed)
                    logits[entry, slot, x] = sign * _HARD
    for entry in sorted(set(range(size)) - set(columns)):
        logits[entry, entry % m] = _HARD
    frame = cell.frame(len(columns))
    head = cell.head(found.read, len(columns))
    model = frame.model(cell.spec(block_size=m, d_state=size), *head)
    layer: Any = model.mixers[0]
    idle = cell.table(logits.reshape(-1, letters + 1))
    write(layer.proj_gates.weight, frame.tokens(idle))
    write(layer.proj_v.weight, frame.tokens(cell.table(values)))
    write(layer.proj_out.weight, frame.outputs(np.eye(size)[columns]))
    return model


def _slot(block: Function, after: Function, signed: bool) -> tuple[int, int]:
    for slot, f in enumerate(block):
        if (f == after).all():
            return slot, 1
        if signed and (f == -after).all():
            return slot, -1
    raise AssertionError("a family is closed under letters")


def h_lru(cell: Cell) -> Plan | None:
    """Rows of lags: the newest copies a lag or takes a constant, the others move on."""
    if cell.mixer.options["normalization"] != "softmax" or not cell.mixer.options["selective"]:
        return None
    core, most = cell.core, cell.mixer.sizes.get("order", 4)
    found: list[list[Function]] = []
    asked = np.flatnonzero(core.asked)
    read = None
    for chain in sorted(chains(core, most), key=len):
        found.append(chain)
        features = np.array([f[asked] for each in found for f in each], dtype=np.float64).T
        read = read_out(features, core.answers[asked], int(core.answers[asked].max()) + 1)
        if read is not None:
            break
    if read is None:
        return None
    order = cell.mixer.sizes.get("order", max(map(len, found)))
    size = cell.given("d_state", len(found))
    if size is None:
        return None
    told = read

    def build() -> SequenceModel:
        letters = cell.letters
        logits, values = np.zeros((size, order + 1, letters + 1)), np.zeros((size, letters + 1))
        for channel, chain in enumerate(found):
            logits[channel, order, letters], values[channel, letters] = _HARD, chain[0][0]
            for x in range(letters):
                after = chain[0][core.step[:, x]]
                if (after == after[0]).all():
                    logits[channel, order, x], values[channel, x] = _HARD, after[0]
                else:
                    logits[channel, _slot(np.array(chain), after, False)[0], x] = _HARD
        columns = [channel * order + i for channel, chain in enumerate(found) for i in range(len(chain))]
        frame = cell.frame(len(columns))
        model = frame.model(cell.spec(order=order, d_state=size), *cell.head(told, len(columns)))
        layer: Any = model.mixers[0]
        write(layer.proj_gates.weight, frame.tokens(cell.table(logits.reshape(-1, letters + 1))))
        write(layer.proj_v.weight, frame.tokens(cell.table(values)))
        write(layer.proj_out.weight, frame.outputs(np.eye(size * order)[columns]))
        return model

    says = f"{len(found)} rows of up to {order} lags, the newest a copy of one or a constant"
    return Plan("lags", says, "functions of the automaton's states, as 1 and 0", _PRECISION, True, build)
