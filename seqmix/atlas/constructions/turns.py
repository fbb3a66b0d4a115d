"""GLA with Selective RoPE, and GateLoop: letters turn a plane, or write a vector over what was.

Where the letters that permute states commute, they turn planes of representations of their group, and letters that send
every state to one write that state's vector and let the decay be zero. A plane is two heads with the same keys, whose
queries are its two axes; a bit that is only held, set or flipped needs one. Values are 1e-4, for which GLA's norm,
with its eps of 1e-5, is linear. Angles are float32 numbers near 2 pi k / n, so that errors add up, but for half turns.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from seqmix.atlas.constructions.cell import Array, Cell, Plan
from seqmix.atlas.constructions.selective import bits_of, spoken
from seqmix.atlas.frame import Frame, inverse_silu, last_tap, ones, write
from seqmix.atlas.pullbacks import group_table
from seqmix.atlas.registers import FADE, FLIP, SHARE, written
from seqmix.atlas.representations import faithful
from seqmix.models import SequenceModel

__all__ = ["gateloop", "gla", "turns"]

_SMALL = 1e-4
_GONE = -250.0  # of a log decay, whose exp is zero


class _Turns(NamedTuple):
    """For H heads and L + 1 letters, the BOS last: angle (H, L + 1); keys (H, L + 1, 2), zero where nothing is written;
    log decays (H, L + 1); queries (H, 2); and a read-out of the heads' numbers q . (what was written, turned back)."""

    angle: Array
    keys: Array
    decay: Array
    queries: Array
    logits: Array
    constants: Array
    letters: Array | None


def turns(cell: Cell, *, turning: bool) -> _Turns | None:
    """What heads do for a cell; None where letters do not only turn and write."""
    bits = bits_of(cell, 1, flips=turning)
    if bits is not None:
        ops = np.concatenate([bits.ops[:, 0], bits.start[:, None]], 1)
        keys = np.zeros((*ops.shape, 2))
        keys[:, :, 0] = written(ops)
        logits, constants, letters = spoken(cell, bits)
        finite = np.where(np.isfinite(constants), constants + logits.sum(1) / 2, constants)
        angle = np.where(ops == FLIP, math.pi, 0.0)
        decay = np.where(ops >= FADE, math.log(SHARE), np.where(ops < 2, _GONE, 0.0))
        return _Turns(angle, keys, decay, np.tile([1.0, 0.0], (len(ops), 1)), logits / 2, finite, letters)
    return _commuting(cell) if turning else None


def _commuting(cell: Cell) -> _Turns | None:
    step, q = cell.core.step, cell.core.n_states
    constant = (step == step[:1]).all(0)
    permuting = np.flatnonzero(~constant)
    if q > 64 or not len(permuting) or not cell.core.asked.all():
        return None
    table = group_table(cell.core._replace(step=step[:, permuting]))
    if table is None or (table != table.T).any():
        return None
    elements = step[0, permuting].tolist()
    found = faithful(table, elements, 2)
    if found is None:
        return None
    heads = 2 * len(found)
    angle, keys = np.zeros((heads, cell.letters + 1)), np.zeros((heads, cell.letters + 1, 2))
    logits, constants = np.zeros((cell.vocab_size, heads)), np.full(cell.vocab_size, -np.inf)
    constants[cell.core.answers] = 0
    for number, each in enumerate(found):
        two = slice(2 * number, 2 * number + 2)
        # One dimension is a plane that only turns by halves.
        turn = np.array(
            [math.atan2(m[1, 0], m[0, 0]) if len(m) > 1 else math.pi * (m[0, 0] < 0) for m in each.matrices]
        )
        vectors = np.column_stack([np.cos(turn), -np.sin(turn)])  # turned back, as queries see them
        angle[two, permuting] = turn[elements]
        for x in np.flatnonzero(constant):
            keys[two, x] = vectors[step[0, x]]
        keys[two, -1] = vectors[0]
        logits[cell.core.answers, two] = vectors
    queries = np.tile(np.eye(2), (len(found), 1))
    return _Turns(angle, keys, np.where(keys.any(2), _GONE, 0.0), queries, logits, constants, None)


def _plan(cell: Cell, found: _Turns, build: Callable[[], SequenceModel]) -> Plan:
    precision = "over the reals at every length; in float32 errors of angles and of keys that should be zero add up"
    return Plan(
        "turns", f"{len(found.angle)} heads that letters turn, or write over", "vectors of planes", precision,
        False, build,
    )  # fmt: skip


def gla(cell: Cell) -> Plan | None:
    """Two keys a head and one value."""
    o = cell.mixer.options
    rope = dict(o["rope_options"] or {})
    if cell.mixer.sizes or o["position"] not in (None, "selective-rope") or o["decay_temperature"] != 16.0:
        return None
    if rope.keys() - {"d_conv", "bias"} or rope.get("d_conv") == "difference" or (o["d_conv"] or 1) > 1:
        return None
    found = turns(cell, turning=o["position"] is not None)
    return None if found is None else _plan(cell, found, lambda: _gla(cell, found, rope))


def _gla(cell: Cell, found: _Turns, rope: dict[str, Any]) -> SequenceModel:
    heads, letters = len(found.angle), cell.letters
    frame = cell.frame(heads, 2 * heads)
    sizes: dict[str, Any] = {"n_heads": heads, "expand_k": 2 * heads / frame.width, "expand_v": heads / frame.width}
    sizes["decay_rank"] = min(frame.width, letters + 1)
    if cell.mixer.options["position"] is not None:
        sizes["rope_options"] = {"rank": letters + 1, **rope}
    model = frame.model(cell.spec(**sizes), found.logits, found.constants, found.letters)
    layer: Any = model.mixers[0]
    q = np.repeat(found.queries.reshape(-1, 1), letters + 1, 1)
    k = found.keys.transpose(0, 2, 1).reshape(-1, letters + 1)
    v, z = np.full((heads, letters + 1), _SMALL), np.full((heads, letters + 1), float(inverse_silu(1.0)))
    write(layer.in_proj.weight, frame.tokens(cell.table(np.concatenate([q, k, v, z]))))
    write(layer.decay_down.weight, frame.tokens(cell.table(np.eye(letters + 1))))
    # logsigmoid(40) / 16 has an exp of one; far below zero logsigmoid is its argument.
    each = layer.n_decays
    write(layer.decay_up.weight, np.repeat(np.where(found.decay < 0, 16 * found.decay - 40, 0.0), each, 0))
    write(layer.decay_up.bias, np.full(heads * each, 40.0))
    ones(layer.norm_weight)
    if cell.mixer.options["position"] is not None:
        _write_angles(layer.position, frame, cell, found.angle)
    size = _SMALL / math.sqrt(2) / math.sqrt(1e-5)
    write(layer.out_proj.weight, frame.outputs(np.eye(heads) / size))
    return model


def _write_angles(rope: Any, frame: Frame, cell: Cell, angle: Array) -> None:
    """Angles (H, L + 1) of letters, from each head's part of the input at length one."""
    part = frame.width // len(angle)
    columns = frame.place.tokens + np.array([*cell.core.tokens.tolist(), cell.automaton.bos])
    # Of a token's two entries, the first is seen; both may lie in one head's part.
    together = columns // part == (cell.vocab_size + columns) // part
    seen = frame.scale / np.sqrt(np.where(together, 2, 1) * frame.scale**2 + 1e-6)
    table = cell.table(np.eye(len(columns)) / seen[None] * frame.scale)
    write(rope.down_proj.weight, frame.tokens(table))
    write(rope.up_proj.weight, angle)
    if rope.bias is not None:
        write(rope.bias, np.full(rope.bias.shape, -150.0))
    if rope.conv_weight is not None:
        last_tap(rope.conv_weight)


def gateloop(cell: Cell) -> Plan | None:
    """One complex key a head and one value; no norm."""
    found = None if cell.mixer.sizes else turns(cell, turning=True)
    if found is None:
        return None

    def build() -> SequenceModel:
        heads, letters = len(found.angle), cell.letters
        frame = cell.frame(heads, heads)
        spec = cell.spec(n_heads=heads, expand_k=2 * heads / frame.width)
        model = frame.model(spec, found.logits, found.constants, found.letters)
        layer: Any = model.mixers[0]
        width = frame.width // heads
        q = np.repeat(found.queries.reshape(-1, 1), letters + 1, 1)
        k = found.keys.transpose(0, 2, 1).reshape(-1, letters + 1)
        v, z = np.zeros((frame.width, letters + 1)), np.full((frame.width, letters + 1), float(inverse_silu(1.0)))
        v[::width] = 1
        rows = np.concatenate([q, k, v, z])
        write(layer.in_proj.weight, frame.tokens(cell.table(rows)))
        # alpha, whose logsigmoid is the decay, then omega of each head
        alpha = np.where(found.decay < 0, found.decay - np.log(-np.expm1(np.minimum(found.decay, -1))), 40.0)
        gates = np.stack([alpha, found.angle], 1)
        write(layer.gate_proj.weight, frame.tokens(cell.table(gates.reshape(-1, letters + 1))))
        write(layer.out_proj.weight, frame.outputs(np.eye(frame.width)[::width] * math.sqrt(2)))
        return model

    return _plan(cell, found, build)
