"""Layers whose gates hold a number or write over it, one bit each: Mamba-2, RG-LRU, minGRU, HGRN2, KDA, attention that
forgets.

A bit is 1 or -1 (in minGRU 1 or 0). Where it is set the decay is exactly zero in float32 and the value is written;
where it is held the decay is exactly one and nothing is; where it fades the decay is 1 / 64. A BOS sets every bit.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from seqmix.atlas.constructions.cell import Array, Cell, Plan
from seqmix.atlas.constructions.selective import bits_of, spoken
from seqmix.atlas.frame import Frame, inverse_silu, last_tap, ones, write
from seqmix.atlas.registers import FADE, FLIP, HOLD, SHARE, Registers, written
from seqmix.models import SequenceModel

__all__ = ["attention", "hgrn_2", "kda", "mamba_2", "min_gru", "rg_lru"]

_ONE = float(inverse_silu(1.0))
_FADE = math.log(1 / SHARE - 1)  # its sigmoid is 1 - 1 / 64
_Made = tuple[SequenceModel, Any, Frame]


def _plan(cell: Cell, build: Callable[[Cell, Registers], SequenceModel], *, flips: bool = False) -> Plan | None:
    """A plan of bits for a layer whose sizes are left open."""
    bits = None if cell.mixer.sizes else bits_of(cell, 1, flips=flips)
    if bits is None:
        return None
    says = f"{len(bits.ops)} bits that letters hold, set" + (" or flip" if flips else "")
    exact = "every length, in float32 as over the reals"
    return Plan("bits", says, "bits, as signs", exact, True, lambda: build(cell, bits))


def _model(cell: Cell, bits: Registers, multiple: int, *, signs: bool = True, **sizes: Any) -> _Made:
    """A model that reads one number a bit; signs s say bits (1 + s) / 2. `sizes` may depend on the width."""
    frame = cell.frame(len(bits.ops), multiple)
    logits, constants, letters = spoken(cell, bits)
    if signs:
        finite = np.where(np.isfinite(constants), constants + logits.sum(1) / 2, constants)
        logits, constants = logits / 2, finite
    made = {key: value(frame.width) if callable(value) else value for key, value in sizes.items()}
    model = frame.model(cell.spec(**made), logits, constants, letters)
    return model, model.mixers[0], frame


def _ops(cell: Cell, bits: Registers) -> Array:
    """What letters, the BOS last, do to each bit, (R, L + 1)."""
    return np.concatenate([bits.ops[:, 0], bits.start[:, None]], 1)


def _by_op(ops: Array, hold: float, replace: float, fade: float) -> Array:
    """Logits by what is done to bits."""
    return np.where(ops == HOLD, hold, np.where(ops >= FADE, fade, replace))


def _size(ops: Array, size: float) -> float:
    """Of values before a norm: what fades is small, for which the norm is linear."""
    return 1e-4 if (ops >= FADE).any() else size


def _shares(ops: Array, low: float = -1.0) -> Array:
    """What is written where one minus the decay multiplies it."""
    return written(ops, low) / np.where(ops >= FADE, 1 - SHARE, 1)


def _first(count: int, group: int, rows: Array, rest: float = 0.0) -> Array:
    """(count * group, n): `rows` (count, n) at the first of each group, `rest` elsewhere."""
    table = np.full((count * group, rows.shape[1]), rest)
    table[::group] = rows
    return table


def min_gru(cell: Cell) -> Plan | None:
    """z is zero or one, candidates are 1 or sigmoid(-150) = 0."""

    def build(cell: Cell, bits: Registers) -> SequenceModel:
        model, layer, frame = _model(cell, bits, 1, signs=False, d_state=len(bits.ops))
        ops = _ops(cell, bits)
        logit, values = _by_op(ops, -150.0, 150.0, _FADE), _shares(ops, 0)
        gates = logit if cell.mixer.name == "min-gru" else np.concatenate([-logit, logit])  # f, then i
        write(layer.gate_proj.weight, frame.tokens(cell.table(gates)))
        write(layer.in_proj.weight, frame.tokens(cell.table(np.where(values > 0, values - 0.5, -150.0))))
        write(layer.out_proj.weight, frame.outputs(np.eye(len(ops))))
        return model

    return _plan(cell, build)


def hgrn_2(cell: Cell) -> Plan | None:
    """A head with one key a bit; the norm sees as many numbers of one size as there are bits."""
    if cell.mixer.options["lower_bound"]:
        return None

    def build(cell: Cell, bits: Registers) -> SequenceModel:
        n = len(bits.ops)
        model, layer, frame = _model(cell, bits, n, n_heads=n, expand_k=lambda width: n / width)
        ops, group, small = _ops(cell, bits), frame.width // n, _size(_ops(cell, bits), 1.0)
        write(layer.q_proj.weight, frame.tokens(cell.table(np.full(ops.shape, _ONE))))
        write(layer.f_proj.weight, frame.tokens(cell.table(_by_op(ops, 150.0, -150.0, -_FADE), 150.0)))
        write(layer.i_proj.weight, frame.tokens(cell.table(_first(n, group, small * _shares(ops)))))
        ones(layer.norm_weight)
        read = math.sqrt(1e-5) / small if small < 1 else math.sqrt(n / frame.width + 1e-5)
        write(layer.out_proj.weight, frame.outputs(np.eye(frame.width)[::group] * read))
        return model

    return _plan(cell, build)


def mamba_2(cell: Cell) -> Plan | None:
    """A head a bit, of which one channel is written; dt is 0, 110 or what makes it fade."""

    def build(cell: Cell, bits: Registers) -> SequenceModel:
        n = len(bits.ops)
        model, layer, frame = _model(cell, bits, n, n_heads=n, d_state=1, expand=1, n_groups=1)
        ops, inner = _ops(cell, bits), frame.width
        group, every = inner // n, np.ones((1, cell.letters + 1))
        small, dt = _size(ops, 22.0), _by_op(ops, 1.0, 110.0, -math.log(SHARE))
        u = _first(n, group, np.where(ops == HOLD, 0, inverse_silu(small * written(ops) / dt)))
        # softplus(log 63) is log 64
        z, steps = _ONE * np.repeat(every, inner, 0), _by_op(ops, -110.0, 110.0, _FADE)
        rows = cell.table(np.concatenate([z, u, _ONE * every, _ONE * every]))
        write(layer.in_proj.weight, frame.tokens(np.concatenate([rows, cell.table(steps, -110.0)])))
        last_tap(layer.conv1d.weight)
        ones(layer.norm.weight)
        read = math.sqrt(1e-5) / small if small < 1 else math.sqrt(n / inner + 1e-5 / small**2)
        write(layer.out_proj.weight, frame.outputs(np.eye(inner)[::group] * read))
        return model

    return _plan(cell, build)


def rg_lru(cell: Cell) -> Plan | None:
    """Channels for letters, which the gates of the channels for bits see; r is zero or one, and exp(-160) is zero."""
    if cell.mixer.options["min_gain"]:
        return None

    def build(cell: Cell, bits: Registers) -> SequenceModel:
        n, letters = len(bits.ops), cell.letters
        model, layer, frame = _model(cell, bits, 1, n_heads=1, d_state=n + letters + 1)
        ops = _ops(cell, bits)
        gain = np.where(ops >= FADE, math.sqrt(1 - SHARE**2), 1)
        inputs = np.concatenate([written(ops) / gain, np.eye(letters + 1)])
        gelu = np.full(inputs.shape, 10.0)  # gelu(10) = 10
        write(layer.in_proj.weight, frame.tokens(cell.table(np.concatenate([inputs, gelu]))))
        last_tap(layer.conv_weight)
        gates = np.zeros((2, len(inputs), len(inputs)))
        slow = -math.log(SHARE) / 160  # of r
        gates[0, n:, :n] = _by_op(ops, -150.0, 150.0, math.log(slow / (1 - slow))).T
        write(layer.gate_weight, gates)
        write(layer.gate_bias, np.concatenate([np.zeros(len(inputs)), np.full(len(inputs), 40.0)]))
        write(layer.Lambda, np.full(len(inputs), 20.0))
        write(layer.out_proj.weight, frame.outputs(np.eye(n, len(inputs)) / 10))
        return model

    return _plan(cell, build)


def kda(cell: Cell) -> Plan | None:
    """A head with one key a bit, as in DeltaNet; nothing decays."""
    signed = cell.mixer.options["eigenvalues"] == "signed"

    def build(cell: Cell, bits: Registers) -> SequenceModel:
        n = len(bits.ops)
        share = lambda width: n / width  # noqa: E731
        model, layer, frame = _model(cell, bits, n, n_heads=n, expand_k=share, expand_v=share)
        ops = _ops(cell, bits)
        keys = np.full((2 * n, cell.letters + 1), 30.0)
        small = _size(ops, 0.2)
        values = inverse_silu(small * _shares(ops))
        write(layer.in_proj.weight, frame.tokens(cell.table(np.concatenate([keys, values]))))
        last_tap(layer.conv_weight)
        replace, fade = (0.0, math.log((1 - SHARE) / (1 + SHARE))) if signed else (40.0, _FADE)
        strength = np.where(ops == FLIP, 40.0, _by_op(ops, -120.0, replace, fade))
        write(layer.beta_proj.weight, frame.tokens(cell.table(strength, -120.0)))
        write(layer.dt_bias, np.full(n, -150.0))
        write(layer.gate_up.bias, np.full(n, 40.0))
        ones(layer.norm_weight)
        read = math.sqrt(1e-5) / small if small < 0.1 else 1.0  # of what does not fade only the sign is read
        write(layer.out_proj.weight, frame.outputs(np.eye(n) * read))
        return model

    return _plan(cell, build, flips=signed)


def attention(cell: Cell) -> Plan | None:
    """A head a bit: letters that set it forget all before (log f = -1000), keys of those that hold it are 200 below."""
    o = cell.mixer.options
    if not o["forget_gate"] or o["position"] is not None or o["window"] is not None:
        return None

    def build(cell: Cell, bits: Registers) -> SequenceModel:
        n = len(bits.ops)
        model, layer, frame = _model(cell, bits, n, n_heads=n)
        ops, group = _ops(cell, bits), frame.width // n
        q = _first(n, group, np.ones(ops.shape))
        k = _first(n, group, np.where(ops == HOLD, -200 * math.sqrt(group), 0.0))
        v = _first(n, group, _shares(ops))
        write(layer.qkv_proj.weight, frame.tokens(cell.table(np.concatenate([q, k, v]))))
        if layer.conv_weight is not None:
            last_tap(layer.conv_weight)
        write(layer.forget_proj.weight, frame.tokens(cell.table(_by_op(ops, 40.0, -1000.0, -_FADE), 40.0)))
        write(layer.out_proj.weight, frame.outputs(np.eye(frame.width)[::group]))
        return model

    return _plan(cell, build)
