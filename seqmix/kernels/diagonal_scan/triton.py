"""Triton kernels for h_t = a_t h_{t-1} + x_t: one pass over memory, tiles of time by channels.

A program owns one span and a block of channels. It scans a tile of BT steps with `tl.associative_scan`, adds the carry
and goes on to the next tile, whose loads are under way by then. Where spans are chunks, a first pass keeps only the
product of the decays and the last state of each, the same kernel scans those, and the second pass starts every chunk
from its true state. Kernels for a decay (D,) stand in `triton_invariant.py`. Letters: L rows of all sequences, C spans,
D channels.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import (
    RUNTIME,
    Spans,
    chunk_length,
    cut,
    fresh,
    lanes,
    launch,
    program_of,
    span,
    whole_sequences,
)
from seqmix.kernels.diagonal_scan import triton_invariant
from seqmix.kernels.diagonal_scan.tiles import load, row_of, scan_tile, store, times

OP = "diagonal_scan"


@triton.jit(do_not_specialize=RUNTIME)
def _forward(
    p_x, p_a, p_initial, p_h, p_final, p_product, p_offsets, length, chunk, chunks, channels,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # Without `p_h` only `p_final` and `p_product`, the state and the product of decays at the end of the span, are
    # wanted.
    kind: tl.constexpr = p_final.dtype.element_ty
    i_span, o_d = program_of(channels, BD)
    o_at = i_span * channels + o_d
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    mask_d = o_d < channels
    o_step = tl.arange(0, BT)
    total = tl.full((BD,), 1.0, kind)
    total_im = tl.zeros((BD,), kind)
    b_carry = tl.zeros((BD,), kind)
    b_carry_im = tl.zeros((BD,), kind)
    if p_initial is not None:
        b_carry, b_carry_im = load(p_initial, o_at, mask_d, kind, COMPLEX)  # (BD,)
    for start in tl.range(first, last, BT, num_stages=STAGES):
        o_t = start + o_step
        mask = (o_t < last)[:, None] & mask_d[None, :]
        if REVERSE:
            o_t = first + last - 1 - o_t
        o_here = o_t[:, None] * channels + o_d[None, :]
        b_x, b_x_im = load(p_x, o_here, mask, kind, COMPLEX)  # (BT, BD)
        b_a, b_a_im = load(p_a, o_here, mask, kind, COMPLEX)  # (BT, BD)
        b_a, b_a_im, b_x, b_x_im = scan_tile(b_a, b_a_im, b_x, b_x_im, COMPLEX)
        b_h, b_h_im = times(b_a, b_a_im, b_carry[None, :], b_carry_im[None, :], COMPLEX)
        b_h, b_h_im = b_h + b_x, b_h_im + b_x_im
        is_end = (o_step == tl.minimum(last - start, BT) - 1)[:, None]
        b_carry, b_carry_im = row_of(b_h, is_end), row_of(b_h_im, is_end)
        if p_h is None:
            total, total_im = times(total, total_im, row_of(b_a, is_end), row_of(b_a_im, is_end), COMPLEX)
        else:
            store(p_h, o_here, mask, b_h, b_h_im, COMPLEX)
    store(p_final, o_at, mask_d, b_carry, b_carry_im, COMPLEX)
    if p_product is not None:
        store(p_product, o_at, mask_d, total, total_im, COMPLEX)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    p_dh, p_a, p_h, p_initial, p_dfinal, p_da, p_dx, p_dinitial, p_product, p_offsets, length, chunk, chunks, channels,
    COMPLEX: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # s_t = dh_t + conj(a_{t+1}) s_{t+1} back in time; what comes into the last step, `p_dfinal`, has the factor 1.
    # Without `p_dx` only `p_dinitial` and `p_product`, what a span hands on and the factor of what came in, are wanted.
    kind: tl.constexpr = p_dinitial.dtype.element_ty
    i_span, o_d = program_of(channels, BD)
    o_at = i_span * channels + o_d
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    mask_d = o_d < channels
    o_step = tl.arange(0, BT)
    # What comes into the span (BD,), and the product of its decays.
    total = tl.full((BD,), 1.0, kind)
    total_im = tl.zeros((BD,), kind)
    b_carry = tl.zeros((BD,), kind)
    b_carry_im = tl.zeros((BD,), kind)
    if p_dfinal is not None:
        b_carry, b_carry_im = load(p_dfinal, o_at, mask_d, kind, COMPLEX)  # (BD,)
    if p_dx is not None:
        b_before, b_before_im = load(p_initial, o_at, mask_d, kind, COMPLEX)  # (BD,)
    for start in tl.range(first, last, BT, num_stages=STAGES):
        # A tile (BT, BD), its rows back in time: the adjoint, scanned and joined to what came in.
        o_t = first + last - 1 - (start + o_step)
        mask = (o_t >= first)[:, None] & mask_d[None, :]
        o_here = o_t[:, None] * channels + o_d[None, :]
        b_s, b_s_im = load(p_dh, o_here, mask, kind, COMPLEX)  # (BT, BD)
        b_a, b_a_im = load(p_a, o_here + channels, mask & (o_t + 1 < last)[:, None], kind, COMPLEX)  # (BT, BD)
        b_a = tl.where((o_t + 1 < last)[:, None], b_a, 1.0)
        b_a, b_a_im, b_s, b_s_im = scan_tile(b_a, -b_a_im, b_s, b_s_im, COMPLEX)
        late, late_im = times(b_a, b_a_im, b_carry[None, :], b_carry_im[None, :], COMPLEX)
        b_s, b_s_im = b_s + late, b_s_im + late_im
        is_end = (o_step == tl.minimum(last - start, BT) - 1)[:, None]
        b_carry, b_carry_im = row_of(b_s, is_end), row_of(b_s_im, is_end)
        # The gradients, with h of the step before.
        if p_dx is None:
            total, total_im = times(total, total_im, row_of(b_a, is_end), row_of(b_a_im, is_end), COMPLEX)
        else:
            b_h, b_h_im = load(p_h, o_here - channels, mask & (o_t > first)[:, None], kind, COMPLEX)  # (BT, BD)
            b_h = tl.where((o_t > first)[:, None], b_h, b_before[None, :])
            b_h_im = tl.where((o_t > first)[:, None], b_h_im, b_before_im[None, :])
            b_g, b_g_im = times(b_s, b_s_im, b_h, -b_h_im, COMPLEX)
            store(p_dx, o_here, mask, b_s, b_s_im, COMPLEX)
            store(p_da, o_here, mask, b_g, b_g_im, COMPLEX)
    if last > first:
        # What reaches the state before the span has passed the first step's decay too.
        b_a, b_a_im = load(p_a, first * channels + o_d, mask_d, kind, COMPLEX)  # (BD,)
        b_carry, b_carry_im = times(b_carry, b_carry_im, b_a, -b_a_im, COMPLEX)
        total, total_im = times(total, total_im, b_a, -b_a_im, COMPLEX)
    store(p_dinitial, o_at, mask_d, b_carry, b_carry_im, COMPLEX)
    if p_product is not None:
        store(p_product, o_at, mask_d, total, total_im, COMPLEX)


def _real(tensor: Tensor | None) -> Tensor | None:
    """Contiguous, with complex numbers as pairs of real ones."""
    if tensor is None:
        return None
    tensor = tensor.detach().contiguous()
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _run(kernel, spans: Spans, x: Tensor, a: Tensor, *tensors: Tensor | None, **options: object) -> None:
    # A tile is 2,048 real numbers, 16 for each thread; 32 channels in float32 are a whole cache line.
    channels = x.shape[-1]
    width = lanes(channels, 32)
    launch(
        kernel,
        spans.number * triton.cdiv(channels, width),
        *map(_real, (x, a, *tensors)),
        *spans.arguments,
        channels,
        COMPLEX=x.is_complex(),
        BT=32 if x.is_complex() else 64,
        BD=width,
        # Three stages of double precision would need more shared memory than smaller GPUs have.
        STAGES=2 if x.dtype in (torch.float64, torch.complex128) else 3,
        num_warps=4,
        enable_fp_fusion=False,  # long scans lose digits to contracted products (triton #2359)
        **options,
    )


def _chunk(sequences: Spans, channels: int) -> int | None:
    return chunk_length(sequences.number * triton.cdiv(channels, 32), sequences.length)


def relay(spans: Spans, last: Tensor, product: Tensor, incoming: Tensor, *, backward: bool) -> tuple[Tensor, Tensor]:
    """Carry states over chunks (C, D), each with the state it reaches from zero and the product of its decays.

    Returns what leaves every chunk (C, D), and every sequence (S, D); `backward` goes from the last to the first.
    """
    after, final = fresh(last), fresh(incoming)
    _run(_forward, spans, last, product, incoming, after, final, None, REVERSE=backward)
    return after, final


def forward(a: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None) -> tuple[Tensor, Tensor]:
    """h (B, T, D) in the type of x and the final state (S, D); a (B, T, D) or (D,)."""
    sequences = whole_sequences(OP, x, cu_seqlens)
    channels = x.shape[2]
    h, final = fresh(x), fresh(initial_state)
    chunk = _chunk(sequences, channels)

    def scan(spans: Spans, *tensors: Tensor | None) -> None:
        if a.ndim == 1:
            _run(triton_invariant.forward, spans, x, a, *tensors)
        else:
            _run(_forward, spans, x, a, *tensors, REVERSE=False)

    if chunk is None:
        scan(sequences, initial_state, h, final, None)
        return h, final
    chunked = cut(sequences, chunk)
    last, product = (fresh(initial_state, chunked.spans.number, channels) for _ in range(2))
    scan(chunked.spans, None, None, last, product)
    after, final = relay(chunked.relay, last, product, initial_state, backward=False)
    scan(chunked.spans, chunked.starts(initial_state, after), h, last, None)
    return h, final


def backward(
    dh: Tensor, dfinal: Tensor, a: Tensor, h: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of a, x and the initial state: s_t = dh_t + conj(a_{t+1}) s_{t+1}, da_t = s_t conj(h_{t-1})."""
    sequences = whole_sequences(OP, h, cu_seqlens)
    channels = h.shape[2]
    kernel = triton_invariant.backward if a.ndim == 1 else _backward
    dx, dinitial = fresh(h), fresh(initial_state)
    spans, before, incoming, outgoing = sequences, initial_state, dfinal, dinitial
    chunk = _chunk(sequences, channels)
    if chunk is not None:
        chunked = cut(sequences, chunk)
        spans = chunked.spans
        outgoing, product = (fresh(initial_state, spans.number, channels) for _ in range(2))
        _run(kernel, spans, dh, a, None, None, None, None, None, outgoing, product)
        handed_on, dinitial = relay(chunked.relay, outgoing, product, dfinal, backward=True)
        before, incoming = chunked.states(h, initial_state), chunked.ends(dfinal, handed_on)
    # Each span has its own sum for a decay that is the same at every step.
    da = fresh(a) if a.ndim == 3 else fresh(initial_state, spans.number, channels)
    _run(kernel, spans, dh, a, h, before, incoming, da, dx, outgoing, None)
    return (da if a.ndim == 3 else da.sum(0).to(a.dtype)), dx, dinitial
