"""Triton kernels for the causal convolution: tiles of time by channels, every tap a shifted load of the same rows.

All steps are independent, so a program takes a piece of a sequence; rows in front of the sequence lie in the window
that came in. Shifted loads of a tile hit the cache. Backward, one pass forms dz, the gradient in front of the
activation, and sums those of the taps for its piece; a second one mirrors the taps over dz. The window that goes out
and the gradient of the one that came in are W - 1 rows each. Letters: C pieces, S sequences, D channels, W taps.
"""

import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import RUNTIME, Chunked, cut, fresh, lanes, launch, sequence_of, span, whole_sequences

OP = "causal_conv1d"

# Rows of a piece: sums over a piece are short, and there are many pieces.
_PIECE = 256


@triton.jit
def _inputs(x, window, s, row, start, d, mask, channels, W: tl.constexpr, kind: tl.constexpr):
    """Input rows (BT,) of sequence `s`, which starts at `start`; up to W - 1 rows before it lie in the window."""
    old = (row < start)[:, None]
    value = tl.load(x + row[:, None] * channels + d[None, :], mask=mask & (row >= start)[:, None], other=0.0).to(kind)
    place = (s * (W - 1) + row - start + W - 1)[:, None] * channels + d[None, :]
    before = tl.load(window + place, mask=mask & old & (row >= start - W + 1)[:, None], other=0.0).to(kind)
    return tl.where(old, before, value)


@triton.jit
def _outputs(dz, taps, dfinal, s, row, start, end, d, mask, channels, W: tl.constexpr, kind: tl.constexpr):
    """Gradient of input rows (BT,): the taps mirrored over dz, and that of the window that goes out."""
    place = (s * (W - 1) + row - end + W - 1)[:, None] * channels + d[None, :]
    total = tl.load(dfinal + place, mask=mask & (row >= end - W + 1)[:, None], other=0.0).to(kind)
    for k in tl.static_range(W):
        later = row + (W - 1 - k)
        inside = mask & (later >= start)[:, None] & (later < end)[:, None]
        tap = tl.load(taps + k * channels + d, mask=d < channels, other=0.0).to(kind)
        total += tap[None, :] * tl.load(dz + later[:, None] * channels + d[None, :], mask=inside, other=0.0).to(kind)
    return total


@triton.jit(do_not_specialize=RUNTIME)
def _convolve(
    x, taps, bias, window, y, dy, dz, dtaps, of, bounds, offsets, length, chunk, chunks, channels,
    SILU: tl.constexpr, W: tl.constexpr, DOUBLE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # Writes y, or where that is None dz, and in `dtaps` (C, W + 1, D) the sums for each tap and for the bias.
    kind: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    blocks = tl.cdiv(channels, BD)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    mask_d = d < channels
    first, last = span(item, offsets, length, chunk, chunks)
    s, start, _ = sequence_of(item, of, bounds, length, chunks)
    offset = tl.load(bias + d, mask=mask_d, other=0.0).to(kind)
    sums = ()
    for _ in tl.static_range(W + 1):
        sums = sums + (tl.zeros((BD,), kind),)
    # A tile (BT, BD): z, the sum over the taps.
    for begin in tl.range(first, last, BT):
        t = begin + tl.arange(0, BT)
        mask = (t < last)[:, None] & mask_d[None, :]
        z = tl.zeros((BT, BD), kind) + offset[None, :]
        for k in tl.static_range(W):
            row = _inputs(x, window, s, t - (W - 1 - k), start, d, mask, channels, W, kind)
            z += tl.load(taps + k * channels + d, mask=mask_d, other=0.0).to(kind)[None, :] * row
        here = t[:, None] * channels + d[None, :]
        # e^-z overflows to infinity for very negative z, and the gate is zero there, as it should be.
        gate = 1.0 / (1.0 + tl.exp(-z))
        if y is not None:
            if SILU:
                z = z * gate
            tl.store(y + here, z.to(y.dtype.element_ty), mask=mask)
        else:
            flow = tl.load(dy + here, mask=mask, other=0.0).to(kind)
            if SILU:
                flow = flow * gate * (1.0 + z * (1.0 - gate))
            tl.store(dz + here, flow.to(dz.dtype.element_ty), mask=mask)
            # The sums over time for every tap and the bias.
            added = ()
            for k in tl.static_range(W):
                row = _inputs(x, window, s, t - (W - 1 - k), start, d, mask, channels, W, kind)
                added = added + (sums[k] + tl.sum(flow * row, 0),)
            sums = added + (sums[W] + tl.sum(flow, 0),)
    if y is None:
        for k in tl.static_range(W + 1):
            tl.store(dtaps + (item * (W + 1) + k) * channels + d, sums[k], mask=mask_d)


@triton.jit(do_not_specialize=RUNTIME)
def _mirror(
    dz, taps, dfinal, dx, of, bounds, offsets, length, chunk, chunks, channels,
    W: tl.constexpr, DOUBLE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    blocks = tl.cdiv(channels, BD)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    first, last = span(item, offsets, length, chunk, chunks)
    s, start, end = sequence_of(item, of, bounds, length, chunks)
    for begin in tl.range(first, last, BT):
        t = begin + tl.arange(0, BT)
        mask = (t < last)[:, None] & (d < channels)[None, :]
        value = _outputs(dz, taps, dfinal, s, t, start, end, d, mask, channels, W, kind)
        tl.store(dx + t[:, None] * channels + d[None, :], value.to(dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def _windows(
    x, window, final, dz, taps, dfinal, dwindow, offsets, length, chunk, chunks, channels,
    W: tl.constexpr, DOUBLE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # The last W - 1 inputs of a sequence, or where `final` is None the gradient of those before its first.
    kind: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    blocks = tl.cdiv(channels, BD)
    s = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    start, end = span(s, offsets, length, chunk, chunks)
    i = tl.arange(0, BT)
    mask = (i < W - 1)[:, None] & (d < channels)[None, :]
    here = (s * (W - 1) + i)[:, None] * channels + d[None, :]
    if final is not None:
        value = _inputs(x, window, s, end - W + 1 + i, start, d, mask, channels, W, kind)
        tl.store(final + here, value.to(final.dtype.element_ty), mask=mask)
    else:
        value = _outputs(dz, taps, dfinal, s, start - W + 1 + i, start, end, d, mask, channels, W, kind)
        tl.store(dwindow + here, value.to(dwindow.dtype.element_ty), mask=mask)


def _pieces(x: Tensor, cu_seqlens: Tensor | None) -> Chunked:
    return cut(whole_sequences(OP, x, cu_seqlens), _PIECE)


def _run(kernel, x: Tensor, weight: Tensor, spans: int, *arguments: object, **options: object) -> None:
    channels, taps = weight.shape
    width = lanes(channels, 64)
    tile = {"W": taps, "DOUBLE": x.dtype.itemsize == 8, "BD": width, "num_warps": 4}
    launch(kernel, spans * triton.cdiv(channels, width), *arguments, channels, **({"BT": 16} | tile | options))


def _contiguous(*tensors: Tensor) -> tuple[Tensor, ...]:
    return tuple(t.detach().contiguous() for t in tensors)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, silu: bool
) -> tuple[Tensor, Tensor]:
    """y (B, T, D) and the last W - 1 inputs (S, W - 1, D), both in the type of x."""
    pieces = _pieces(x, cu_seqlens)
    y, final = fresh(x), fresh(initial_state)
    x, taps, bias, window = _contiguous(x, weight.T, bias, initial_state)
    place = (*pieces.places, *pieces.spans.arguments)
    _run(_convolve, x, weight, pieces.spans.number, x, taps, bias, window, y, None, None, None, *place, SILU=silu)
    if final.shape[1]:
        whole = pieces.sequences
        rows = triton.next_power_of_2(final.shape[1])
        arguments = (x, window, final, None, None, None, None, *whole.arguments)
        _run(_windows, x, weight, whole.number, *arguments, BT=rows)
    return y, final


def backward(
    dy: Tensor,
    dfinal: Tensor,
    x: Tensor,
    weight: Tensor,
    bias: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Gradients of x, weight, bias and the initial state."""
    pieces = _pieces(x, cu_seqlens)
    channels, width = weight.shape
    dz, dx, dinitial = fresh(x), fresh(x), fresh(initial_state)
    dtaps = fresh(x.float() if x.dtype.itemsize < 4 else x, pieces.spans.number, width + 1, channels)
    dy, dfinal, x, taps, bias_, window = _contiguous(dy, dfinal, x, weight.T, bias, initial_state)
    place = (*pieces.places, *pieces.spans.arguments)
    _run(_convolve, x, weight, pieces.spans.number, x, taps, bias_, window, None, dy, dz, dtaps, *place, SILU=silu)
    _run(_mirror, x, weight, pieces.spans.number, dz, taps, dfinal, dx, *place)
    if dinitial.shape[1]:
        whole = pieces.sequences
        rows = triton.next_power_of_2(dinitial.shape[1])
        arguments = (None, None, None, dz, taps, dfinal, dinitial, *whole.arguments)
        _run(_windows, dz, weight, whole.number, *arguments, BT=rows)
    sums = dtaps.sum(0)
    return dx, sums[:-1].T.to(weight.dtype).contiguous(), sums[-1].to(bias.dtype, copy=True), dinitial
