"""DeltaNet and the dense layer: registers by keys of one axis, and groups by orthogonal matrices.

DeltaNet's S <- (I - beta k k^T) S + beta k v^T with v = -s k makes s (R - I) of S = 0, R the product of the letters'
matrices, each of which is as many reflections (beta = 2) as it moves dimensions. One query reads s (R^T q - q): with
s = 1e-4 the norm behind it, whose eps is 1e-5, is linear. silu bounds entries of keys from below by -0.278, and their
length is 1 - 5e-7 / |k|^2: so vectors of d dimensions are spread over K = 64 d entries by a tight frame, in which none
is much below zero. A register is a head with one key: it holds (beta = 0), is set (1), or changes its sign (2).
"""

import math
from typing import Any, NamedTuple

import numpy as np

from seqmix.atlas.constructions.cell import Array, Cell, Plan
from seqmix.atlas.constructions.selective import bits_of, spoken
from seqmix.atlas.frame import inverse_silu, last_tap, ones, write
from seqmix.atlas.pullbacks import group_table
from seqmix.atlas.registers import FADE, FLIP, HOLD, SHARE, Registers, written
from seqmix.atlas.representations import Representation, faithful, reflections, separating_vector
from seqmix.models import SequenceModel

__all__ = ["deltanet_bits", "deltanet_group", "dense"]

_SPREAD = 64
_SMALL = 1e-4
_SHUT, _OPEN = -120.0, 40.0


def deltanet_bits(cell: Cell) -> Plan | None:
    """A head for each bit."""
    o = cell.mixer.options
    signed = o["eigenvalues"] == "signed"
    if o.get("gated") or o.get("output_gate") or o.get("position") is not None or cell.mixer.sizes:
        return None
    bits = bits_of(cell, 1, flips=signed)
    if bits is None:
        return None
    build = lambda: _deltanet_bits(cell, bits, signed)  # noqa: E731
    return Plan(
        "bits", f"{len(bits.ops)} heads with one key: hold, set" + (" or flip" if signed else ""), "bits, as signs",
        "every length, in float32 as over the reals", True, build,
    )  # fmt: skip


def _deltanet_bits(cell: Cell, bits: Registers, signed: bool) -> SequenceModel:
    heads, letters, n = len(bits.ops), cell.letters, cell.mixer.options.get("n_householder", 1)
    frame = cell.frame(heads, heads)
    logits, constants, told = spoken(cell, bits)
    # Signs s say bits (1 + s) / 2.
    finite = np.where(np.isfinite(constants), constants + logits.sum(1) / 2, constants)
    spec = cell.spec(n_heads=heads, expand_k=heads / frame.width, expand_v=heads / frame.width)
    model = frame.model(spec, logits / 2, finite, told)
    layer: Any = model.mixers[0]
    rows = np.zeros((heads + 2 * n * heads, letters + 1))  # q, then n keys of all heads, then n values
    rows[: heads + n * heads] = 30
    ops = np.concatenate([bits.ops[:, 0], bits.start[:, None]], 1)
    # What fades is small, for which the norm is linear; of what does not only the sign is read.
    fades = bool((ops >= FADE).any())
    shares = written(ops) / np.where(ops >= FADE, 1 - SHARE, 1)
    rows[heads + n * heads : heads * (2 + n)] = inverse_silu((_SMALL if fades else 0.2) * shares)
    betas = np.full((heads, n, letters + 1), _SHUT)
    fade = math.log((1 - SHARE) / (1 + SHARE)) if signed else math.log(1 / SHARE - 1)
    betas[:, 0] = np.where(ops >= FADE, fade, np.where((ops == FLIP) | (not signed), _OPEN, 0.0))
    betas[:, 0][ops == HOLD] = _SHUT
    write(layer.in_proj.weight, frame.tokens(cell.table(rows)))
    write(layer.beta_proj.weight, frame.tokens(cell.table(betas.reshape(-1, letters + 1), _SHUT)))
    _finish(layer, frame.outputs(np.eye(heads) * (math.sqrt(1e-5) / _SMALL if fades else 1)))
    return model


def _finish(layer: Any, outputs: Any) -> None:
    """Norm, read-out and, where there is one, a convolution of the last letter alone."""
    ones(layer.norm_weight)
    write(layer.out_proj.weight, outputs)
    if layer.conv_weight is not None:
        last_tap(layer.conv_weight)


class _Group(NamedTuple):
    """chosen: representations; letters: for each the element that it is, or the state that it sends all states to."""

    chosen: list[Representation]
    letters: list[int]
    resets: list[bool]


def group_of(cell: Cell, most_moved: int) -> _Group | None:
    """Of letters that permute states as a group acts on itself, apart from those that send all states to one."""
    step = cell.core.step
    resets = (step == step[:1]).all(0) & (cell.core.n_states > 1)
    permuting = np.flatnonzero(~resets)
    table = group_table(cell.core._replace(step=step[:, permuting])) if len(permuting) else None
    if table is None or len(table) > 128 or not cell.core.asked.all():
        return None
    found = faithful(table, step[0, permuting].tolist(), most_moved)
    if found is None or (resets.any() and max(r.matrices.shape[1] for r in found) > most_moved):
        return None
    return _Group(found, step[0].tolist(), resets.tolist())


def deltanet_group(cell: Cell) -> Plan | None:
    """A head for each representation of a group whose letters are at most n reflections."""
    o = cell.mixer.options
    if o["eigenvalues"] != "signed" or o.get("gated") or o.get("output_gate") or o.get("position") is not None:
        return None
    n = o.get("n_householder", 1)
    found = None if cell.mixer.sizes else group_of(cell, n)
    if found is None:
        return None
    sizes = "+".join(str(r.matrices.shape[1]) for r in found.chosen)
    build = lambda: _deltanet_group(cell, found, n)  # noqa: E731
    return Plan(
        "reflections", f"an orthogonal representation of {sizes} dimensions, at most {n} reflections a letter",
        "orthogonal matrices", "over the reals at every length; in float32 rounding adds up", False, build,
    )  # fmt: skip


def _deltanet_group(cell: Cell, found: _Group, n: int) -> SequenceModel:
    chosen = found.chosen
    heads, letters, width = len(chosen), cell.letters, max(r.matrices.shape[1] for r in chosen)
    keys = max(_SPREAD * width, 8)
    frame = cell.frame(heads * width, heads)
    spec = cell.spec(n_heads=heads, expand_k=heads * keys / frame.width, expand_v=heads * width / frame.width)
    spread = _tight_frame(keys, width)
    q, k, v = np.zeros((heads, keys)), np.zeros((n, heads, keys, letters + 1)), np.zeros((n, heads, width, letters + 1))
    k[:, :, 0] = 1  # of steps that do nothing
    betas = np.full((heads, n, letters + 1), _SHUT)
    reads = np.zeros((heads, width, width))
    logits, constants = np.zeros((cell.vocab_size, heads * width)), np.full(cell.vocab_size, -np.inf)
    states = np.arange(cell.core.n_states)
    constants[cell.core.answers] = 0
    for h, each in enumerate(chosen):
        d = each.matrices.shape[1]
        query = separating_vector(each)
        for x, (element, reset) in enumerate(zip(found.letters, found.resets, strict=True)):
            matrix = each.matrices[element]
            # With beta = 1 along each axis nothing is left of what was.
            for step, along in enumerate(np.eye(d) if reset else reflections(matrix)):
                value = matrix.T @ along - along if reset else -along
                key = spread[:, :d] @ along
                if -key.min() > key.max():
                    key, value = -key, -value
                k[step, h, :, x] = inverse_silu(key * 0.27 / max(-key.min(), 1e-3))
                v[step, h, :d, x] = inverse_silu(_SMALL * value)
                betas[h, step, x] = 0 if reset else _OPEN
        direction = spread[:, :d] @ query
        scale = 0.27 / max(-direction.min(), 1e-3)
        q[h] = inverse_silu(direction * scale)
        # o = s (R^T q - q) / sqrt(K), over the root of its eps
        size = _SMALL / math.sqrt(keys) / math.sqrt(1e-5)
        images = each.matrices[states].transpose(0, 2, 1) @ query  # of each state, R^T q
        logits[cell.core.answers, h * width : h * width + d] = images
        constants[cell.core.answers] += images @ query
        reads[h] = np.eye(width) / size
    model = frame.model(spec, logits, constants)
    layer: Any = model.mixers[0]
    rows = np.concatenate([
        np.repeat(q.reshape(-1, 1), letters + 1, 1), k.reshape(-1, letters + 1), v.reshape(-1, letters + 1)
    ])  # fmt: skip
    write(layer.in_proj.weight, frame.tokens(cell.table(rows)))
    write(layer.beta_proj.weight, frame.tokens(cell.table(betas.reshape(-1, letters + 1), _SHUT)))
    block = np.zeros((heads * width, heads * width))
    for h in range(heads):
        block[h * width : (h + 1) * width, h * width : (h + 1) * width] = reads[h]
    _finish(layer, frame.outputs(block))
    return model


def _tight_frame(count: int, width: int) -> Array:
    """(count, width) with orthonormal columns and rows of equal length, as nearly as random rotations have them."""
    random = np.random.default_rng(0).normal(size=(count, width))
    for _ in range(200):
        random /= np.linalg.norm(random, axis=1, keepdims=True)
        u, _, w = np.linalg.svd(random, full_matrices=False)
        random = u @ w
    return random


def dense(cell: Cell) -> Plan | None:
    """Bits on a diagonal, or a group's orthogonal matrices; a BOS writes the vector that they turn."""
    if cell.mixer.sizes:
        return None
    bits = bits_of(cell, 1, flips=True)
    found = None if bits is not None else group_of(cell, 1 << 16)
    if bits is None and found is None:
        return None

    def build() -> SequenceModel:
        letters = cell.letters
        if bits is not None:
            count = len(bits.ops)
            a, b = np.zeros((count, count, letters + 1)), np.zeros((count, letters + 1))
            for bit in range(count):
                for x in range(letters + 1):
                    op = bits.start[bit] if x == letters else bits.ops[bit, 0, x]
                    a[bit, bit, x] = {HOLD: 1, FLIP: -1, 0: 0, 1: 0}.get(int(op), SHARE)
                    b[bit, x] = 1 if op == FLIP else written(op, 0)
            frame = cell.frame(count)
            model = frame.model(cell.spec(d_state=count), *spoken(cell, bits))
        else:
            assert found is not None
            sizes = [r.matrices.shape[1] for r in found.chosen]
            ends = np.cumsum([0, *sizes])
            count = int(ends[-1])
            a, b = np.zeros((count, count, letters + 1)), np.zeros((count, letters + 1))
            logits, constants = np.zeros((cell.vocab_size, count)), np.full(cell.vocab_size, -np.inf)
            constants[cell.core.answers] = 0
            for r, begin, end in zip(found.chosen, ends, ends[1:], strict=False):
                q = separating_vector(r)
                b[begin:end, letters] = q
                for x, (element, reset) in enumerate(zip(found.letters, found.resets, strict=True)):
                    if reset:
                        b[begin:end, x] = r.matrices[element] @ q
                    else:
                        a[begin:end, begin:end, x] = r.matrices[element]
                logits[cell.core.answers, begin:end] = r.matrices[: cell.core.n_states] @ q
            frame = cell.frame(count)
            model = frame.model(cell.spec(d_state=count), logits, constants)
        layer: Any = model.mixers[0]
        table = cell.table(a.reshape(-1, letters + 1))
        write(layer.proj_transition.weight, frame.tokens(table))
        write(layer.proj_in.weight, frame.tokens(cell.table(b)))
        write(layer.proj_out.weight, frame.outputs(np.eye(count)))
        return model

    how = "bits on the diagonal" if bits is not None else "orthogonal matrices of the group"
    return Plan(
        "matrices", how, "bits" if bits is not None else "a vector that the group turns",
        "over the reals at every length; in float32 rounding adds up", False, build,
    )  # fmt: skip
