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
    p_old, p_new, p_change, p_size, i_span, stop, last, o_n, width, largest_change, largest, BT: tl.constexpr,
):  # fmt: skip
    """Rows from `stop` on, which are those of a sequence that is done, stay what they were; the largest numbers."""
    for start in range(stop, last, BT):
        o_t = start + tl.arange(0, BT)
        mask = (o_t < last)[:, None] & (o_n < width)[None, :]
        o_here = o_t[:, None] * width + o_n[None, :]
        tl.store(p_new + o_here, tl.load(p_old + o_here, mask=mask, other=0.0), mask=mask)  # (BT, BN)
    tl.store(p_change + i_span, largest_change)
    tl.store(p_size + i_span, largest)


@triton.jit
def load_pre(
    p_p, p_more, p_more0, o_t, begin, i_s, o_at, o_seen, mask, row, seen, scale, SEES: tl.constexpr,
):  # fmt: skip
    """Columns `o_at` of p (L, row) for rows t, and with SEES `scale` times columns `o_seen` of the token before."""
    b_value = tl.load(p_p + o_t[:, None] * row + o_at[None, :], mask=mask, other=0.0)  # (BT, BN)
    if SEES:
        at_first = (o_t == begin)[:, None]
        # (BT, BN)
        b_added = tl.load(p_more + (o_t - 1)[:, None] * seen + o_seen[None, :], mask=mask & (at_first == 0), other=0.0)
        # (BT, BN)
        b_added += tl.load(p_more0 + i_s * seen + (0 * o_t)[:, None] + o_seen[None, :], mask=mask & at_first, other=0.0)
        b_value += scale[:, None] * b_added
    return b_value


@triton.jit
def load_before(p_h, p_h0, o_t, begin, i_s, o_n, mask, width):
    """The rows (BT, BN) of h (L, N) before rows t; `p_h0` (S, N) before the first."""
    at_first = (o_t == begin)[:, None]
    # (BT, BN)
    b_past = tl.load(p_h + (o_t - 1)[:, None] * width + o_n[None, :], mask=mask & (at_first == 0), other=0.0)
    # (BT, BN)
    return b_past + tl.load(p_h0 + i_s * width + (0 * o_t)[:, None] + o_n[None, :], mask=mask & at_first, other=0.0)


@triton.jit
def reflection(
    p_p, p_more, p_more0, o_t, begin, i_s, i, at, seen_at, o_n, mask, mask_t, width, rank, row, seen, scale,
    SEES: tl.constexpr,
):  # fmt: skip
    """Raw numbers, u_i (BT, BN) with one over its raw length, and sigmoid of what makes alpha_i (BT,)."""
    o_here = i * width + o_n
    b_raw = load_pre(p_p, p_more, p_more0, o_t, begin, i_s, at + o_here, seen_at + o_here, mask, row, seen, scale, SEES)
    b_u = b_raw * sigmoid(b_raw)
    b_inverse = tl.rsqrt(tl.sum(b_u * b_u, 1) + 1e-6)
    o_one = rank * width + i + tl.arange(0, 1)
    b_gate = load_pre(
        p_p, p_more, p_more0, o_t, begin, i_s, at + o_one, seen_at + o_one, mask_t[:, None], row, seen, scale, SEES
    )
    return b_raw, b_u * b_inverse[:, None], b_inverse, tl.sum(sigmoid(b_gate), 1)


@triton.jit
def mixed(
    p_p, p_more, p_more0, o_t, begin, i_s, at, seen_at, o_n, mask, mask_t, width, rank, row, seen, scale, b_rest,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, SEES: tl.constexpr,
):  # fmt: skip
    """K rest."""
    total = tl.zeros_like(b_rest)
    for index in range(0, rank):
        i = rank - 1 - index
        _, b_u, _, b_gate = reflection(
            p_p,
            p_more,
            p_more0,
            o_t,
            begin,
            i_s,
            i,
            at,
            seen_at,
            o_n,
            mask,
            mask_t,
            width,
            rank,
            row,
            seen,
            scale,
            SEES,
        )
        taken = (STRENGTH * b_gate * tl.sum(b_u * b_rest, 1))[:, None] * b_u
        total += taken
        if PRODUCT:
            b_rest -= taken
    return total


@triton.jit
def mixed_back(
    p_pre, o_t, at, o_n, mask, mask_t, width, rank, row, b_left, STRENGTH: tl.constexpr, PRODUCT: tl.constexpr,
):  # fmt: skip
    """K^T left."""
    total = tl.zeros_like(b_left)
    for i in range(0, rank):
        _, b_u, _, b_gate = reflection(
            p_pre, None, None, o_t, 0, 0, i, at, 0, o_n, mask, mask_t, width, rank, row, 0, 0.0, False
        )  # fmt: skip
        taken = (STRENGTH * b_gate * tl.sum(b_u * b_left, 1))[:, None] * b_u
        total += taken
        if PRODUCT:
            b_left -= taken
    return total


@triton.jit
def store_mixing_gradient(
    p_pre, p_out, o_t, at, out_at, o_n, mask, mask_t, width, rank, row, columns, b_left, b_rest,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """The gradient of left^T K rest in the numbers that make K, to columns `out_at` on of out (L, columns)."""
    o_lane = tl.arange(0, BR)[None, :]
    omegas = tl.zeros((b_left.shape[0], BR), b_left.dtype)
    for index in range(0, rank):
        i = rank - 1 - index
        _, b_u, _, b_gate = reflection(
            p_pre, None, None, o_t, 0, 0, i, at, 0, o_n, mask, mask_t, width, rank, row, 0, 0.0, False
        )  # fmt: skip
        omega = STRENGTH * b_gate * tl.sum(b_u * b_rest, 1)
        omegas = tl.where(o_lane == i, omega[:, None], omegas)
        if PRODUCT:
            b_rest -= omega[:, None] * b_u
    for i in range(0, rank):
        b_raw, b_u, b_inverse, b_gate = reflection(
            p_pre, None, None, o_t, 0, 0, i, at, 0, o_n, mask, mask_t, width, rank, row, 0, 0.0, False
        )  # fmt: skip
        omega = tl.sum(tl.where(o_lane == i, omegas, 0.0), 1)
        if PRODUCT:
            b_rest += omega[:, None] * b_u
        on_left, on_rest = tl.sum(b_u * b_left, 1), tl.sum(b_u * b_rest, 1)
        eta = STRENGTH * b_gate * on_left
        b_du = omega[:, None] * b_left + eta[:, None] * b_rest
        b_draw = b_inverse[:, None] * (b_du - b_u * tl.sum(b_u * b_du, 1)[:, None])
        open_ = sigmoid(b_raw)
        b_draw *= open_ * (1.0 + b_raw * (1.0 - open_))
        p_here = p_out + o_t[:, None] * columns + out_at
        tl.store(p_here + (i * width + o_n)[None, :], b_draw, mask=mask)
        dalpha = STRENGTH * b_gate * (1.0 - b_gate) * on_left * on_rest
        tl.store(p_out + o_t * columns + out_at + rank * width + i, dalpha, mask=mask_t)
        if PRODUCT:
            b_left -= eta[:, None] * b_u


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
