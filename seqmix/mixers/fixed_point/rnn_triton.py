"""One sweep of the fixed-point RNN with a mixing of low rank as one Triton pass: gates, mixing, scan and residual.

From the pre-activations of all tokens and h^{l-1} a program forms lambda, b and the reflections of a tile of time with
all its channels, applies K to h^{l-1} - b, scans over time, and keeps the largest change. Neither gates nor factors are
written to memory. Spans and their relay are those of `diagonal_scan`. A sum c_i u_i is what K gives, so no I - Q is
subtracted. Letters: L rows of all sequences, C spans, N channels, r rank, M = 2 N + r (N + 1).
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import RUNTIME, Spans, chunk_length, cut, lanes, launch, span, whole_sequences
from seqmix.kernels.diagonal_scan.triton import relay

OP = "fixed_point_scan"


@triton.jit
def _combine(a0, s0, a1, s1):  # type: ignore[no-untyped-def]
    return a0 * a1, a1 * s0 + s1


@triton.jit
def _sigmoid(x):  # type: ignore[no-untyped-def]
    return 1.0 / (1.0 + tl.exp(-x))


@triton.jit
def _largest(x):  # type: ignore[no-untyped-def]
    """max |x|, infinity where there is a NaN."""
    x = tl.where(x == x, tl.abs(x), float("inf"))
    return tl.max(tl.max(x, 1), 0)


@triton.jit(do_not_specialize=RUNTIME)
def _sweep(  # type: ignore[no-untyped-def]
    pre, old, initial, new, last_state, product, change, size, offsets, length, chunk, chunks, width, rank,
    STRENGTH: tl.constexpr, PRODUCT: tl.constexpr, BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Without `new` only the state at the end of the span and the product of its decays are wanted.
    item = tl.program_id(0).to(tl.int64)
    n = tl.arange(0, BN)
    mask_n = n < width
    total_size = 2 * width + rank * (width + 1)
    first, last = span(item, offsets, length, chunk, chunks)
    step = tl.arange(0, BT)
    is_last = (step == BT - 1)[:, None]
    kind: tl.constexpr = pre.dtype.element_ty
    total = tl.full((BN,), 1.0, kind)
    carry = tl.zeros((BN,), kind)
    if initial is not None:
        carry = tl.load(initial + item * width + n, mask=mask_n, other=0.0)
    largest_change = tl.max(tl.zeros((BN,), kind), 0)
    largest = largest_change
    for start in range(first, last, BT):
        t = start + step
        mask_t = t < last
        mask = mask_t[:, None] & mask_n[None, :]
        base = pre + t[:, None] * total_size + n[None, :]
        gate = tl.load(base, mask=mask, other=0.0)
        raw = tl.load(base + width, mask=mask, other=0.0)
        h = tl.load(old + t[:, None] * width + n[None, :], mask=mask, other=0.0)
        b = raw * _sigmoid(raw)
        rest = h - b
        mixed = tl.zeros((BT, BN), kind)
        for index in range(0, rank):
            i = rank - 1 - index
            u = tl.load(base + (2 + i) * width, mask=mask, other=0.0)
            u *= _sigmoid(u)
            u *= tl.rsqrt(tl.sum(u * u, 1) + 1e-6)[:, None]
            alpha = tl.load(pre + t * total_size + (2 + rank) * width + i, mask=mask_t, other=0.0)
            taken = (STRENGTH * _sigmoid(alpha) * tl.sum(u * rest, 1))[:, None] * u
            mixed += taken
            if PRODUCT:
                rest -= taken
        decay = tl.where(mask, _sigmoid(gate), 1.0)
        x = tl.where(mask, _sigmoid(-gate) * (b + mixed), 0.0)
        decay, x = tl.associative_scan((decay, x), 0, _combine)
        x += decay * carry[None, :]
        carry = tl.sum(tl.where(is_last, x, 0.0), 0)
        if new is None:
            total *= tl.sum(tl.where(is_last, decay, 0.0), 0)
        else:
            tl.store(new + t[:, None] * width + n[None, :], x, mask=mask)
            largest_change = tl.maximum(largest_change, _largest(tl.where(mask, x - h, 0.0)))
            largest = tl.maximum(largest, _largest(tl.where(mask, x, 0.0)))
    tl.store(last_state + item * width + n, carry, mask=mask_n)
    if product is not None:
        tl.store(product + item * width + n, total, mask=mask_n)
    if new is not None:
        tl.store(change + item, largest_change)
        tl.store(size + item, largest)


class Sweeps:
    """The launches of all sweeps of one solve: p (B, T, M) or packed, the cut into spans, and room for results."""

    def __init__(self, p: Tensor, width: int, rank: int, strength: float, product: bool, cu_seqlens: Tensor | None):
        self.width = width
        self.arguments = (width, rank)
        BN = lanes(width, 1 << 20)
        # 4,096 numbers in a tile: 16 for each thread, of which some eight are alive at a time.
        tile = {"BT": max(2, min(64, 4096 // BN)), "BN": BN, "num_warps": 8}
        # A constant, because a number handed to a kernel is float32.
        self.options = {"STRENGTH": strength, "PRODUCT": product} | tile
        self.sequences = whole_sequences(OP, p, cu_seqlens)
        chunk = chunk_length(self.sequences.number, self.sequences.length)
        self.chunked = None if chunk is None else cut(self.sequences, chunk)

    def _run(self, spans: Spans, *tensors: Tensor | None) -> None:
        launch(_sweep, spans.number, *tensors, *spans.arguments, *self.arguments, **self.options)

    def __call__(self, pre: Tensor, h: Tensor, h0: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The next iterate (L, N), and by sequence (S,) the largest change and the largest magnitude.

        pre (L, M) is p with what the state adds to it, h (L, N) the iterate, h0 (S, N) the initial states.
        """
        pre, h, h0 = pre.contiguous(), h.contiguous(), h0.contiguous()
        spans, starts = self.sequences, h0
        new = torch.empty_like(h)
        if self.chunked is not None:
            spans = self.chunked.spans
            end, product = (h.new_empty(spans.number, self.width) for _ in range(2))
            self._run(spans, pre, h, None, None, end, product, None, None)
            after, _ = relay(self.chunked.relay, end, product, h0, backward=False)
            starts = self.chunked.starts(h0, after)
        end = h.new_empty(spans.number, self.width)
        change, size = (h.new_empty(spans.number) for _ in range(2))
        self._run(spans, pre, h, starts, new, end, None, change, size)
        return new, self._by_sequence(change), self._by_sequence(size)

    def _by_sequence(self, values: Tensor) -> Tensor:
        if self.chunked is None:
            return values
        first, count = self.chunked.relay.offsets, self.sequences.number
        if first is None:
            return values.unflatten(0, (count, -1)).amax(1)
        chunk = torch.arange(len(values), device=values.device)
        owner = (torch.searchsorted(first, chunk, right=True) - 1).clamp(max=count - 1)
        return values.new_zeros(count).scatter_reduce_(0, owner, values, "amax")
