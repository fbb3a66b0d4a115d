"""A `SequenceModel` of BD-LRU and H-LRU layers as arrays in float64, and what its gates choose.

Both layers are rows of gates over the m previous entries of their block and an input slot. With each row replaced by
its largest gate an entry becomes a copy, with L1 gates perhaps negated, of a previous entry or of the input. H-LRU is
the case with one row of gates, whose other entries always copy the entry before them.
"""

import hashlib
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from seqmix.inspect.certificates.as_built import check_as_built
from seqmix.inspect.certificates.bounds import Array, Norm, Rounding, Spread, exactly, normed_linear, plus, silu_times
from seqmix.mixers._gates import SMALLEST_SUM
from seqmix.mixers.bd_lru import BDLRU
from seqmix.mixers.h_lru import HLRU
from seqmix.models import SequenceModel
from seqmix.models.block import GLU, SwiGLU
from seqmix.models.norms import BatchNorm

__all__ = ["Choices", "Layer", "Mlp", "Network", "Undecided", "weights_fingerprint"]


class Undecided(ValueError):
    """A row of gates whose two largest are within rounding error: there is no hard network."""

    def __init__(self, layer: int, block: int, row: int, place: int) -> None:
        super().__init__(f"layer {layer}, block {block}, row {row}: two gates are equal within rounding error")
        self.layer, self.block, self.row, self.place = layer, block, row, place


class Choices(NamedTuple):
    """What a layer does with its inputs, for P of them and K = N m entries.

    source (P, K) is the entry of the same layer that is copied, -1 for the input; sign (P, K); values and their radii
    (P, K) are what the input writes; gap (P, K) bounds the sum of the gates that were not chosen from above, where
    exact says that the model's own arithmetic makes them zero.
    """

    source: NDArray[np.int32]
    sign: NDArray[np.int8]
    value: Array
    radius: Array
    gap: Array
    exact: NDArray[np.bool_]


class Mlp(NamedTuple):
    norm: Norm
    gate: Array
    up: Array
    down: Array

    def add(self, x: Spread, rounding: Rounding) -> Spread:
        """x + mlp(norm(x))."""
        gate = normed_linear(x, self.norm, self.gate, 0.0, rounding)
        up = normed_linear(x, self.norm, self.up, 0.0, rounding)
        return plus(x, self.down, *silu_times(*gate, *up, rounding), rounding)


class Layer(NamedTuple):
    """One residual block. `rows` of gates in each of N blocks of m entries: m for BD-LRU, one for H-LRU."""

    name: str
    n_blocks: int
    m: int
    rows: int
    signed: bool
    norm: Norm
    gate_weight: Array  # (N rows (m + 1), D)
    gate_bias: Array
    value_weight: Array  # (N rows, D)
    out: Array  # (D, N m)
    mlp: Mlp | None

    @property
    def size(self) -> int:
        """K, the entries of its state."""
        return self.n_blocks * self.m

    def choose(self, x: Spread, index: int, rounding: Rounding) -> Choices:
        """Its choices for inputs x; raises `Undecided` where two gates of a row are too close to tell."""
        points, n, m, rows = len(x.centre), self.n_blocks, self.m, self.rows
        shape = (points, n, rows, m + 1)
        value, radius = normed_linear(x, self.norm, self.gate_weight, self.gate_bias, rounding)
        logits, doubt = value.reshape(shape), radius.reshape(shape)
        sizes = np.abs(logits) if self.signed else logits
        chosen = sizes.argmax(-1)[..., None]
        sign = np.where(np.take_along_axis(logits, chosen, -1)[..., 0] < 0, -1, 1) if self.signed else 1
        low = np.take_along_axis(sizes - doubt, chosen, -1)
        high = sizes + doubt
        np.put_along_axis(high, chosen, -np.inf, -1)
        # A signed gate also needs a sign, and a row of them a sum of one, which the smallest have not.
        undecided = (high >= low).any(-1) | (self.signed & (low[..., 0] <= 2 * SMALLEST_SUM))
        if undecided.any():
            place, block, row = (int(i) for i in np.argwhere(undecided)[0])
            raise Undecided(index, block, row, place)
        if self.signed:
            others = np.maximum(high, 0).sum(-1)
            gap, exact = others / (low[..., 0] + others), others == 0
        else:
            others = np.exp(high - low).sum(-1)
            exact = (high - low).max(-1) < rounding.vanishes
            gap = others / (1 + others)
        value, radius = normed_linear(x, self.norm, self.value_weight, 0.0, rounding)
        source = np.arange(n)[:, None] * m + chosen[..., 0]
        source[chosen[..., 0] == m] = -1
        sign = np.broadcast_to(sign, source.shape)
        wide = [source, sign, value.reshape(points, n, rows), radius.reshape(points, n, rows), gap, exact]
        if rows < m:
            # Older lags of H-LRU: entry i copies entry i - 1, exactly.
            older = np.broadcast_to(np.arange(n)[:, None] * m + np.arange(m - 1), (points, n, m - 1))
            fill = [older, *(np.full(older.shape, each) for each in (1, 0.0, 0.0, 0.0, True))]
            wide = [np.concatenate([first, rest], -1) for first, rest in zip(wide, fill, strict=True)]
        types = (np.int32, np.int8, np.float64, np.float64, np.float64, np.bool_)
        return Choices(*(np.reshape(w, (points, -1)).astype(t) for w, t in zip(wide, types, strict=True)))


class Network(NamedTuple):
    embedding: Array  # (V, D)
    layers: tuple[Layer, ...]
    norm: Norm
    head: Array  # (V, D)
    rounding: Rounding

    @classmethod
    def of(cls, model: SequenceModel) -> "Network":
        """The arrays of a model.

        Raises:
            ValueError: a model that is no finite automaton, whatever its gates, or weights that are not finite.
            NotImplementedError: an embedding or a type that is not treated.
        """
        _check(model)
        dtype = model.embedding.weight.dtype
        rounding = Rounding.of(dtype)  # type: ignore[arg-type]
        head = model.embedding.weight if model.head is None else model.head.weight
        layers = tuple(_layer(block) for block in model.blocks)
        return cls(_array(model.embedding.weight), layers, _norm(model.norm), _array(head), rounding)

    def embed(self, tokens: NDArray[np.int64]) -> Spread:
        return exactly(self.embedding[tokens])

    def after(self, x: Spread, layer: int, value: Array, radius: Array) -> Spread:
        """The residual stream behind a layer whose state is now value +- radius (P, K)."""
        part = self.layers[layer]
        x = plus(x, part.out, value, radius, self.rounding)
        return x if part.mlp is None else part.mlp.add(x, self.rounding)


def weights_fingerprint(model: nn.Module) -> str:
    """A hash of all weights, with names, shapes and types."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        digest.update(tensor.detach().cpu().contiguous().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _check(model: Any) -> None:
    if not isinstance(model, SequenceModel):
        raise ValueError(f"certify: model must be a SequenceModel, got {type(model).__name__}")
    if model.bidirectional:
        raise ValueError("certify: a bidirectional model answers after it has read the whole word: no automaton")
    for index, mixer in enumerate(model.mixers):
        if type(mixer) not in (BDLRU, HLRU):
            raise ValueError(
                f"certify: layer {index} is {type(mixer).__name__}; only bd-lru and h-lru become finite automata when "
                "their gates are hard"
            )
    if model.head_name != "language":
        raise ValueError(f"certify: the head must answer at every position ('language'), got {model.head_name!r}")
    if not isinstance(model.embedding, nn.Embedding):
        raise NotImplementedError(f"certify: an embedding of tokens is treated, not {type(model.embedding).__name__}")
    if isinstance(model.norm, nn.Identity) or any(isinstance(part, BatchNorm | GLU) for part in model.modules()):
        asked = ", ".join(f"{name}={model.config.get(name)!r}" for name in ("norm", "glu", "final_norm"))
        raise NotImplementedError(f"certify: layer norms everywhere and no glu are treated, got {asked}")
    check_as_built(model)
    for index, mixer in enumerate(model.mixers):
        # How far gates are from hard ones is derived for these two; others with the same logits are nearer or further.
        if mixer.normalization not in (("softmax",) if type(mixer) is HLRU else ("softmax", "l1")):
            raise NotImplementedError(
                f"certify: layer {index}: softmax gates are treated, of bd-lru also l1, "
                f"got {type(mixer).__name__} with normalization={mixer.normalization!r}"
            )
        if not mixer.selective:
            raise NotImplementedError(f"certify: layer {index}: gates must see the token, got selective=False")
    dtypes = {parameter.dtype for parameter in model.parameters()}
    if len(dtypes) > 1 or dtypes - {torch.float32, torch.float64}:
        raise NotImplementedError(
            f"certify: weights in float32 or float64 are treated, got {', '.join(sorted(map(str, dtypes)))}"
        )
    most = Rounding.of(model.embedding.weight.dtype).most
    for name, tensor in model.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"certify: weights must be finite, {name} is not")
        if tensor.abs().max() >= most:
            raise NotImplementedError(f"certify: {name} is so large, above {most:.2g}, that the model may overflow")


def _array(tensor: Any) -> Array:
    return tensor.detach().cpu().double().numpy()


def _norm(norm: Any) -> Norm:
    return Norm(_array(norm.weight), norm.eps)


def _layer(block: Any) -> Layer:
    mixer = block.mixer
    higher_order = isinstance(mixer, HLRU)
    n, m = (mixer.d_state, mixer.order) if higher_order else (mixer.n_blocks, mixer.block_size)
    mlp = None
    if isinstance(block.mlp, SwiGLU):
        gate, up = block.mlp.gate_up_proj.weight.chunk(2)
        mlp = Mlp(_norm(block.mlp_norm), _array(gate), _array(up), _array(block.mlp.down_proj.weight))
    return Layer(
        name="h-lru" if higher_order else "bd-lru",
        n_blocks=n,
        m=m,
        rows=1 if higher_order else m,
        signed=mixer.normalization == "l1",
        norm=_norm(block.mixer_norm),
        gate_weight=_array(mixer.proj_gates.weight),
        gate_bias=_array(mixer.proj_gates.bias),
        value_weight=_array(mixer.proj_v.weight),
        out=_array(mixer.proj_out.weight),
        mlp=mlp,
    )
