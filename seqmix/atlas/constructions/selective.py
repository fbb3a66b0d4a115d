"""Mamba: bits that are held (dt = 0), set (a decay of zero) or, with signed decays, flipped (h <- -h).

Inner channels are indicators of letters, or with a convolution of pairs of letters, from which dt, B and C are formed,
and one channel for each bit, whose value is what letters write. In float32 softplus(-110), exp(-110) and silu(-240) are
zero and 2 exp(-30) - 1 is -1, so that a bit is copied or mirrored exactly, whatever rounding does; a signed decay of
zero, dt = ln 2, leaves 1e-7. Bits that are flipped are 1/8 and -1/8 in the state, since silu is nowhere below -0.27,
and a channel that is always at 1/2 makes them 1 and 0.
"""

import math
from typing import Any

import numpy as np

from seqmix.atlas.constructions.cell import Array, Cell, Plan
from seqmix.atlas.frame import inverse_silu, write
from seqmix.atlas.registers import FADE, FLIP, HOLD, SHARE, Registers, fading, registers, written
from seqmix.models import SequenceModel

__all__ = ["bits_of", "mamba", "spoken"]

_K = 240.0  # of an indicator before silu; -K / 2 has a silu of zero
_ONE = float(inverse_silu(1.0))
_FLIPPED = 1 / 8  # size of a bit that letters flip


def bits_of(cell: Cell, window: int, *, flips: bool) -> Registers | None:
    """Bits for a cell: by single letters and without flips where that does, else by pairs if the window is two, else
    such that fade."""
    if cell.bits is not None:
        return cell.bits[0] or (cell.bits[1] if flips else None)
    for seen in (1, 2)[:window]:
        for flipped in (False, True)[: 1 + flips]:
            if (found := registers(cell.core, seen, flips=flipped)) is not None:
                return found
    return fading(cell.core)


def spoken(cell: Cell, bits: Registers) -> tuple[Array, Array, Array]:
    """Logits (V, R), constants (V,) and letters (V, V) of a read-out of R bits and the last letter."""
    count = len(bits.ops)
    logits, constants = cell.head(bits.read, count + cell.letters)
    letters = np.zeros((cell.vocab_size, cell.vocab_size))
    letters[:, cell.core.tokens] = logits[:, count:]
    return logits[:, :count], constants, letters


def mamba(cell: Cell) -> Plan | None:
    """Bits in the state of one layer."""
    signed, window = cell.mixer.options["eigenvalues"] == "signed", cell.mixer.options["d_conv"]
    bits = bits_of(cell, window, flips=signed)
    if bits is None:
        return None
    # What a letter writes does not depend on the letter before.
    columns = [set(row[:, x]) for row in bits.ops for x in range(cell.letters)]
    if any(FLIP in column and column & {0, 1} for column in columns):
        return None
    if cell.mixer.sizes.keys() & {"expand", "dt_rank"}:
        return None
    build = lambda: _mamba(cell, bits, signed, window)  # noqa: E731
    says = (
        f"{len(bits.ops)} bits that letters" + ("" if bits.by_letter else ", after the letter before,") + " hold, set"
    )
    return Plan(
        "bits", says + (" or flip" if signed else ""), "bits, as 0 and 1", "every length, in float32 as over the reals",
        not signed or not (bits.ops < 2).any(), build,
    )  # fmt: skip


def _mamba(cell: Cell, bits: Registers, signed: bool, window: int) -> SequenceModel:
    count, letters = len(bits.ops), cell.letters
    bos = letters
    # Pairs of the letter before and the letter; at the BOS there is none before.
    pairs = [(bos, bos)] + (
        [(y, x) for y in range(letters + 1) for x in range(letters)]
        if not bits.by_letter
        else [(bos, x) for x in range(letters)]
    )
    frame = cell.frame(count)
    expand = max(1, -(-(len(pairs) + count + 1) // frame.width))
    spec = cell.spec(d_state=cell.mixer.sizes.get("d_state", 1), expand=expand, dt_rank=len(pairs))
    model = frame.model(spec, *spoken(cell, bits))
    layer: Any = model.mixers[0]
    inner = expand * frame.width
    first = len(pairs)  # channel of the first bit
    flips = bool((bits.ops == FLIP).any())
    inputs, gates = np.zeros((inner, letters + 1)), np.zeros((inner, letters + 1))
    taps, bias = np.zeros((inner, window)), np.zeros(inner)
    for channel, (y, x) in enumerate(pairs):
        inputs[channel, x] = 1
        bias[channel], taps[channel, -1] = -1.5 * _K, 2 * _K
        if not bits.by_letter and x != bos:
            taps[channel, -1], taps[channel, -2] = _K, _K
            if x != y:
                inputs[channel, y], taps[channel, -2] = -1, -_K
    # What dt is: decays of zero, of -1 and of SHARE.
    reset, flip = (math.log(2), 30.0) if signed else (110.0, 30.0)
    fade = -math.log((1 + SHARE) / 2 if signed else SHARE)
    steps = np.full((inner, len(pairs)), -110.0)
    for bit in range(count):
        channel = first + bit
        gates[channel] = _ONE
        taps[channel, -1] = 1
        for place, (y, x) in enumerate(pairs):
            op = bits.start[bit] if x == bos else bits.ops[bit, y, x]
            if op != HOLD:
                dt = fade if op >= FADE else flip if op == FLIP else reset
                steps[channel, place] = dt + math.log(-math.expm1(-dt))  # before the softplus
                value = float(written(op, -1)) * _FLIPPED / dt if flips else float(written(op, 0)) / dt
                inputs[channel, x] = -_K if op == FLIP else float(inverse_silu(value)) or inputs[channel, x]
    read = np.eye(inner)[first : first + count]
    if flips:
        half = first + count
        gates[half], bias[half] = _ONE, float(inverse_silu(0.5))
        read = read / (2 * _FLIPPED) + np.eye(inner)[half]
        write(layer.D, np.eye(inner)[half])
    write(layer.in_proj.weight, frame.tokens(cell.table(np.concatenate([inputs, gates]))))
    write(layer.conv1d.weight, taps)
    write(layer.conv1d.bias, bias)
    seen = np.zeros((layer.x_proj.weight.shape[0], inner))
    seen[: len(pairs), : len(pairs)] = np.eye(len(pairs)) * 2 / _K
    seen[len(pairs) :, : len(pairs)] = 2 / _K  # B and C
    write(layer.x_proj.weight, seen)
    write(layer.dt_proj.weight, steps)
    write(layer.out_proj.weight, frame.outputs(read))
    return model
