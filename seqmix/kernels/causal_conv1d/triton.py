"""Triton kernels for the causal convolution: tiles of time by channels, every tap a shifted load of the same rows.

All steps are independent, so a program takes a piece of a sequence; rows in front of the sequence lie in the window
that came in. Shifted loads of a tile hit the cache. Backward, one pass forms dz, the gradient in front of the
activation, and sums those of the taps for its piece; a second one mirrors the taps over dz. The window that goes out
and the gradient of the one that came in are W - 1 rows each. Letters: C pieces, S sequences, D channels, W taps.
"""

import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import (
    RUNTIME,
    Chunked,
    cut,
    fresh,
    lanes,
    launch,
    program_of,
    sequence_of,
    span,
    whole_sequences,
)

OP = "causal_conv1d"

# Rows of a piece: sums over a piece are short, and there are many pieces.
_PIECE = 256


@triton.jit
def _inputs(p_x, p_window, i_s, o_t, start, o_d, mask, channels, W: tl.constexpr, kind: tl.constexpr):
    """Input rows (BT,) of sequence `i_s`, which starts at `start`; up to W - 1 rows before it lie in the window."""
    old = (o_t < start)[:, None]
    # (BT, BD)
    b_x = tl.load(p_x + o_t[:, None] * channels + o_d[None, :], mask=mask & (o_t >= start)[:, None], other=0.0).to(kind)
    o_place = (i_s * (W - 1) + o_t - start + W - 1)[:, None] * channels + o_d[None, :]
    # (BT, BD)
    b_before = tl.load(p_window + o_place, mask=mask & old & (o_t >= start - W + 1)[:, None], other=0.0).to(kind)
    return tl.where(old, b_before, b_x)


@triton.jit
def _outputs(p_dz, p_taps, p_dfinal, i_s, o_t, start, end, o_d, mask, channels, W: tl.constexpr, kind: tl.constexpr):
    """Gradient of input rows (BT,): the taps mirrored over dz, and that of the window that goes out."""
    o_place = (i_s * (W - 1) + o_t - end + W - 1)[:, None] * channels + o_d[None, :]
    b_total = tl.load(p_dfinal + o_place, mask=mask & (o_t >= end - W + 1)[:, None], other=0.0).to(kind)  # (BT, BD)
    for k in tl.static_range(W):
        o_later = o_t + (W - 1 - k)
        inside = mask & (o_later >= start)[:, None] & (o_later < end)[:, None]
        b_tap = tl.load(p_taps + k * channels + o_d, mask=o_d < channels, other=0.0).to(kind)  # (BD,)
        b_total += b_tap[None, :] * tl.load(
            p_dz + o_later[:, None] * channels + o_d[None, :], mask=inside, other=0.0
        ).to(kind)  # (BT, BD)
    return b_total


@triton.jit(do_not_specialize=RUNTIME)
def _convolve(
    p_x, p_taps, p_bias, p_window, p_y, p_dy, p_dz, p_dtaps, p_of, p_bounds, p_offsets, length, chunk, chunks, channels,
    SILU: tl.constexpr, W: tl.constexpr, DOUBLE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # Writes y, or where that is None dz, and in `p_dtaps` (C, W + 1, D) the sums for each tap and for the bias.
    kind: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    i_span, o_d = program_of(channels, BD)
    mask_d = o_d < channels
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    i_s, start, _ = sequence_of(i_span, p_of, p_bounds, length, chunks)
    b_bias = tl.load(p_bias + o_d, mask=mask_d, other=0.0).to(kind)  # (BD,)
    sums = ()
    for _ in tl.static_range(W + 1):
        sums = sums + (tl.zeros((BD,), kind),)
    # A tile (BT, BD): z, the sum over the taps.
    for begin in tl.range(first, last, BT):
        o_t = begin + tl.arange(0, BT)
        mask = (o_t < last)[:, None] & mask_d[None, :]
        b_z = tl.zeros((BT, BD), kind) + b_bias[None, :]
        for k in tl.static_range(W):
            b_x = _inputs(p_x, p_window, i_s, o_t - (W - 1 - k), start, o_d, mask, channels, W, kind)
            b_z += tl.load(p_taps + k * channels + o_d, mask=mask_d, other=0.0).to(kind)[None, :] * b_x  # (BD,)
        o_here = o_t[:, None] * channels + o_d[None, :]
        # e^-z overflows to infinity for very negative z, and the gate is zero there, as it should be.
        gate = 1.0 / (1.0 + tl.exp(-b_z))
        if p_y is not None:
            if SILU:
                b_z = b_z * gate
            tl.store(p_y + o_here, b_z.to(p_y.dtype.element_ty), mask=mask)
        else:
            b_flow = tl.load(p_dy + o_here, mask=mask, other=0.0).to(kind)  # (BT, BD)
            if SILU:
                b_flow = b_flow * gate * (1.0 + b_z * (1.0 - gate))
            tl.store(p_dz + o_here, b_flow.to(p_dz.dtype.element_ty), mask=mask)
            # The sums over time for every tap and the bias.
            added = ()
            for k in tl.static_range(W):
                b_x = _inputs(p_x, p_window, i_s, o_t - (W - 1 - k), start, o_d, mask, channels, W, kind)
                added = added + (sums[k] + tl.sum(b_flow * b_x, 0),)
            sums = added + (sums[W] + tl.sum(b_flow, 0),)
    if p_y is None:
        for k in tl.static_range(W + 1):
            tl.store(p_dtaps + (i_span * (W + 1) + k) * channels + o_d, sums[k], mask=mask_d)


@triton.jit(do_not_specialize=RUNTIME)
def _mirror(
    p_dz, p_taps, p_dfinal, p_dx, p_of, p_bounds, p_offsets, length, chunk, chunks, channels,
    W: tl.constexpr, DOUBLE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    kind: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    i_span, o_d = program_of(channels, BD)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    i_s, start, end = sequence_of(i_span, p_of, p_bounds, length, chunks)
    for begin in tl.range(first, last, BT):
        o_t = begin + tl.arange(0, BT)
        mask = (o_t < last)[:, None] & (o_d < channels)[None, :]
        b_dx = _outputs(p_dz, p_taps, p_dfinal, i_s, o_t, start, end, o_d, mask, channels, W, kind)
        tl.store(p_dx + o_t[:, None] * channels + o_d[None, :], b_dx.to(p_dx.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=RUNTIME)
def _windows(
    p_x, p_window, p_final, p_dz, p_taps, p_dfinal, p_dwindow, p_offsets, length, chunk, chunks, channels,
    W: tl.constexpr, DOUBLE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr,
):  # fmt: skip
    # The last W - 1 inputs of a sequence, or where `p_final` is None the gradient of those before its first.
    kind: tl.constexpr = tl.float64 if DOUBLE else tl.float32
    i_s, o_d = program_of(channels, BD)
    start, end = span(i_s, p_offsets, length, chunk, chunks)
    o_i = tl.arange(0, BT)
    mask = (o_i < W - 1)[:, None] & (o_d < channels)[None, :]
    o_here = (i_s * (W - 1) + o_i)[:, None] * channels + o_d[None, :]
    if p_final is not None:
        b_value = _inputs(p_x, p_window, i_s, end - W + 1 + o_i, start, o_d, mask, channels, W, kind)
        tl.store(p_final + o_here, b_value.to(p_final.dtype.element_ty), mask=mask)
    else:
        b_value = _outputs(p_dz, p_taps, p_dfinal, i_s, start - W + 1 + o_i, start, end, o_d, mask, channels, W, kind)
        tl.store(p_dwindow + o_here, b_value.to(p_dwindow.dtype.element_ty), mask=mask)


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
    dy: Tensor, dfinal: Tensor, x: Tensor, weight: Tensor, bias: Tensor, initial_state: Tensor,
    cu_seqlens: Tensor | None, silu: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
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
