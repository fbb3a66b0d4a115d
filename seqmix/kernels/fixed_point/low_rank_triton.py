"""What the Triton sweeps of both fixed-point layers share: pre-activations, mixing of low rank, and spans of rows.

`load_pre` adds to a row of p what the state of the token before it adds, the product of that state with W^T, so that
pre-activations are never written to memory. A sum c_i u_i is what K gives, so no I - Q is subtracted. With
P_i = I - alpha_i u_i u_i^T a product of r of them is walked factor by factor: `rest` is what P_{i+1} .. P_r leave of e,
`left` what P_{i-1} .. P_1 leave of w, and w^T K e has the gradients alpha_i ((u_i.rest) left + (u_i.left) rest) in u_i
and (u_i.left)(u_i.rest) in alpha_i. For a sum both stay as they are. Letters: L rows, S sequences, N channels, r rank.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import Chunked, chunk_length, cut, lanes, whole_sequences
from seqmix.kernels.fixed_point.rows import Rows

PIECE = 32  # rows of a span where every row is on its own


@triton.jit
def sigmoid(x):
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def largest_of(x):
    """max |x|, infinity where there is a NaN."""
    x = tl.where(x == x, tl.abs(x), float("inf"))
    return tl.max(tl.max(x, 1), 0)


@triton.jit
def end_sweep(
    old, new, change, size, item, stop, last, n, width, largest_change, largest, BT: tl.constexpr,
):  # fmt: skip
    """Rows from `stop` on, which are those of a sequence that is done, stay what they were; the largest numbers."""
    for start in range(stop, last, BT):
        t = start + tl.arange(0, BT)
        mask = (t < last)[:, None] & (n < width)[None, :]
        here = t[:, None] * width + n[None, :]
        tl.store(new + here, tl.load(old + here, mask=mask, other=0.0), mask=mask)
    tl.store(change + item, largest_change)
    tl.store(size + item, largest)


@triton.jit
def load_pre(
    p, more, more0, t, begin, sequence, at, seen_at, mask, row, seen, scale, SEES: tl.constexpr,
):  # fmt: skip
    """Columns `at` of p (L, row) for rows t, and with SEES `scale` times columns `seen_at` of the token before."""
    value = tl.load(p + t[:, None] * row + at[None, :], mask=mask, other=0.0)
    if SEES:
        at_first = (t == begin)[:, None]
        added = tl.load(more + (t - 1)[:, None] * seen + seen_at[None, :], mask=mask & (at_first == 0), other=0.0)
        added += tl.load(more0 + sequence * seen + (0 * t)[:, None] + seen_at[None, :], mask=mask & at_first, other=0.0)
        value += scale[:, None] * added
    return value


@triton.jit
def load_before(h, h0, t, begin, sequence, n, mask, width):
    """The rows (BT, BN) of h (L, N) before rows t; `h0` (S, N) before the first."""
    at_first = (t == begin)[:, None]
    past = tl.load(h + (t - 1)[:, None] * width + n[None, :], mask=mask & (at_first == 0), other=0.0)
    return past + tl.load(h0 + sequence * width + (0 * t)[:, None] + n[None, :], mask=mask & at_first, other=0.0)


@triton.jit
def reflection(
    p, more, more0, t, begin, sequence, i, at, seen_at, n, mask, mask_t, width, rank, row, seen, scale,
    SEES: tl.constexpr,
):  # fmt: skip
    """Raw numbers, u_i (BT, BN) with one over its raw length, and sigmoid of what makes alpha_i (BT,)."""
    here = i * width + n
    raw = load_pre(p, more, more0, t, begin, sequence, at + here, seen_at + here, mask, row, seen, scale, SEES)
    u = raw * sigmoid(raw)
    inverse = tl.rsqrt(tl.sum(u * u, 1) + 1e-6)
    one = rank * width + i + tl.arange(0, 1)
    gate = load_pre(
        p, more, more0, t, begin, sequence, at + one, seen_at + one, mask_t[:, None], row, seen, scale, SEES
    )
    return raw, u * inverse[:, None], inverse, tl.sum(sigmoid(gate), 1)


@triton.jit
def mixed(
    p, more, more0, t, begin, sequence, at, seen_at, n, mask, mask_t, width, rank, row, seen, scale, rest,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES: tl.constexpr,
):  # fmt: skip
    """K rest."""
    total = tl.zeros_like(rest)
    for index in range(0, rank):
        i = rank - 1 - index
        _, u, _, gate = reflection(
            p, more, more0, t, begin, sequence, i, at, seen_at, n, mask, mask_t, width, rank, row, seen, scale, SEES
        )
        taken = (STRENGTH * gate * tl.sum(u * rest, 1))[:, None] * u
        total += taken
        if PRODUCT:
            rest -= taken
    return total


@triton.jit
def mixed_back(
    pre, t, at, n, mask, mask_t, width, rank, row, left, STRENGTH: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """K^T left."""
    total = tl.zeros_like(left)
    for i in range(0, rank):
        _, u, _, gate = reflection(
            pre, None, None, t, 0, 0, i, at, 0, n, mask, mask_t, width, rank, row, 0, 0.0, False
        )  # fmt: skip
        taken = (STRENGTH * gate * tl.sum(u * left, 1))[:, None] * u
        total += taken
        if PRODUCT:
            left -= taken
    return total


@triton.jit
def store_mixing_gradient(
    pre, out, t, at, out_at, n, mask, mask_t, width, rank, row, columns, left, rest,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """The gradient of left^T K rest in the numbers that make K, to columns `out_at` on of out (L, columns)."""
    lane = tl.arange(0, BR)[None, :]
    omegas = tl.zeros((left.shape[0], BR), left.dtype)
    for index in range(0, rank):
        i = rank - 1 - index
        _, u, _, gate = reflection(
            pre, None, None, t, 0, 0, i, at, 0, n, mask, mask_t, width, rank, row, 0, 0.0, False
        )  # fmt: skip
        omega = STRENGTH * gate * tl.sum(u * rest, 1)
        omegas = tl.where(lane == i, omega[:, None], omegas)
        if PRODUCT:
            rest -= omega[:, None] * u
    for i in range(0, rank):
        raw, u, inverse, gate = reflection(
            pre, None, None, t, 0, 0, i, at, 0, n, mask, mask_t, width, rank, row, 0, 0.0, False
        )  # fmt: skip
        omega = tl.sum(tl.where(lane == i, omegas, 0.0), 1)
        if PRODUCT:
            rest += omega[:, None] * u
        on_left, on_rest = tl.sum(u * left, 1), tl.sum(u * rest, 1)
        eta = STRENGTH * gate * on_left
        du = omega[:, None] * left + eta[:, None] * rest
        draw = inverse[:, None] * (du - u * tl.sum(u * du, 1)[:, None])
        open_ = sigmoid(raw)
        draw *= open_ * (1.0 + raw * (1.0 - open_))
        here = out + t[:, None] * columns + out_at
        tl.store(here + (i * width + n)[None, :], draw, mask=mask)
        dalpha = STRENGTH * gate * (1.0 - gate) * on_left * on_rest
        tl.store(out + t * columns + out_at + rank * width + i, dalpha, mask=mask_t)
        if PRODUCT:
            left -= eta[:, None] * u


class Cut:
    """Rows cut for sweeps: pieces, where each row is on its own, and spans, which a scan carries a state through."""

    def __init__(self, op: str, rows: Rows, like: Tensor) -> None:
        # Only shapes and offsets count: sequences of one length need none.
        length, alike = rows.length, rows.length is not None
        x = like.new_empty(1, rows.total, 0) if length is None else like.new_empty(rows.sequences, length, 0)
        self.sequences = whole_sequences(op, x, None if alike else rows.cu_seqlens)
        self.pieces = cut(self.sequences, PIECE)
        chunk = chunk_length(self.sequences.number, self.sequences.length)
        self.chunked = None if chunk is None else cut(self.sequences, chunk)
        whole = None if alike else torch.arange(self.sequences.number + 1, device=like.device)
        self.whole = Chunked(self.sequences, self.sequences, self.sequences, None, whole)

    def by_sequence(self, chunked: Chunked, values: Tensor) -> Tensor:
        """The largest of the values (C,) of the spans of each sequence (S,)."""
        count = self.sequences.number
        if chunked.of is None:
            return values.view(count, -1).amax(1)
        return values.new_zeros(count).scatter_reduce_(0, chunked.of[: len(values)], values, "amax")


def tile(width: int, numbers: int = 4096) -> dict[str, int]:
    """A tile of whole rows: 4,096 numbers, 16 for each thread, of which some eight are alive at a time."""
    BN = lanes(width, 1 << 20)
    return {"BT": max(1, min(PIECE, numbers // BN)), "BN": BN, "num_warps": 8}
