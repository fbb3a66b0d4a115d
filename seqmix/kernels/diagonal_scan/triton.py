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

from seqmix.kernels._triton import RUNTIME, Spans, chunk_length, cut, fresh, lanes, launch, span, whole_sequences
from seqmix.kernels.diagonal_scan import triton_invariant
from seqmix.kernels.diagonal_scan.tiles import load, row_of, scan_tile, store, times

OP = "diagonal_scan"


@triton.jit(do_not_specialize=RUNTIME)
def _forward(
    x, a, initial, h, final, product, offsets, length, chunk, chunks, channels,
    COMPLEX: tl.constexpr, REVERSE: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # Without h only `final` and `product`, the state and the product of decays at the end of the span, are wanted.
    kind: tl.constexpr = final.dtype.element_ty
    blocks = tl.cdiv(channels, BD)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    at = item * channels + d
    first, last = span(item, offsets, length, chunk, chunks)
    mask_d = d < channels
    step = tl.arange(0, BT)
    total = tl.full((BD,), 1.0, kind)
    total_im = tl.zeros((BD,), kind)
    carry = tl.zeros((BD,), kind)
    carry_im = tl.zeros((BD,), kind)
    if initial is not None:
        carry, carry_im = load(initial, at, mask_d, kind, COMPLEX)
    for start in tl.range(first, last, BT, num_stages=STAGES):
        t = start + step
        mask = (t < last)[:, None] & mask_d[None, :]
        if REVERSE:
            t = first + last - 1 - t
        here = t[:, None] * channels + d[None, :]
        x_t, x_im = load(x, here, mask, kind, COMPLEX)
        a_t, a_im = load(a, here, mask, kind, COMPLEX)
        a_t, a_im, x_t, x_im = scan_tile(a_t, a_im, x_t, x_im, COMPLEX)
        h_t, h_im = times(a_t, a_im, carry[None, :], carry_im[None, :], COMPLEX)
        h_t, h_im = h_t + x_t, h_im + x_im
        is_end = (step == tl.minimum(last - start, BT) - 1)[:, None]
        carry, carry_im = row_of(h_t, is_end), row_of(h_im, is_end)
        if h is None:
            total, total_im = times(total, total_im, row_of(a_t, is_end), row_of(a_im, is_end), COMPLEX)
        else:
            store(h, here, mask, h_t, h_im, COMPLEX)
    store(final, at, mask_d, carry, carry_im, COMPLEX)
    if product is not None:
        store(product, at, mask_d, total, total_im, COMPLEX)


@triton.jit(do_not_specialize=RUNTIME)
def _backward(
    dh, a, h, initial, dfinal, da, dx, dinitial, product, offsets, length, chunk, chunks, channels,
    COMPLEX: tl.constexpr, BT: tl.constexpr, BD: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    # s_t = dh_t + conj(a_{t+1}) s_{t+1} back in time; what comes into the last step, `dfinal`, has the factor 1.
    # Without dx only `dinitial` and `product`, what a span hands on and the factor of what came in, are wanted.
    kind: tl.constexpr = dinitial.dtype.element_ty
    blocks = tl.cdiv(channels, BD)
    item = (tl.program_id(0) // blocks).to(tl.int64)
    d = (tl.program_id(0) % blocks) * BD + tl.arange(0, BD)
    at = item * channels + d
    first, last = span(item, offsets, length, chunk, chunks)
    mask_d = d < channels
    step = tl.arange(0, BT)
    # What comes into the span (BD,), and the product of its decays.
    total = tl.full((BD,), 1.0, kind)
    total_im = tl.zeros((BD,), kind)
    carry = tl.zeros((BD,), kind)
    carry_im = tl.zeros((BD,), kind)
    if dfinal is not None:
        carry, carry_im = load(dfinal, at, mask_d, kind, COMPLEX)
    if dx is not None:
        before, before_im = load(initial, at, mask_d, kind, COMPLEX)
    for start in tl.range(first, last, BT, num_stages=STAGES):
        # A tile (BT, BD), its rows back in time: the adjoint, scanned and joined to what came in.
        t = first + last - 1 - (start + step)
        mask = (t >= first)[:, None] & mask_d[None, :]
        here = t[:, None] * channels + d[None, :]
        s, s_im = load(dh, here, mask, kind, COMPLEX)
        a_t, a_im = load(a, here + channels, mask & (t + 1 < last)[:, None], kind, COMPLEX)
        a_t = tl.where((t + 1 < last)[:, None], a_t, 1.0)
        a_t, a_im, s, s_im = scan_tile(a_t, -a_im, s, s_im, COMPLEX)
        late, late_im = times(a_t, a_im, carry[None, :], carry_im[None, :], COMPLEX)
        s, s_im = s + late, s_im + late_im
        is_end = (step == tl.minimum(last - start, BT) - 1)[:, None]
        carry, carry_im = row_of(s, is_end), row_of(s_im, is_end)
        # The gradients, with h of the step before.
        if dx is None:
            total, total_im = times(total, total_im, row_of(a_t, is_end), row_of(a_im, is_end), COMPLEX)
        else:
            h_t, h_im = load(h, here - channels, mask & (t > first)[:, None], kind, COMPLEX)
            h_t = tl.where((t > first)[:, None], h_t, before[None, :])
            h_im = tl.where((t > first)[:, None], h_im, before_im[None, :])
            g, g_im = times(s, s_im, h_t, -h_im, COMPLEX)
            store(dx, here, mask, s, s_im, COMPLEX)
            store(da, here, mask, g, g_im, COMPLEX)
    if last > first:
        # What reaches the state before the span has passed the first step's decay too.
        a_t, a_im = load(a, first * channels + d, mask_d, kind, COMPLEX)
        carry, carry_im = times(carry, carry_im, a_t, -a_im, COMPLEX)
        total, total_im = times(total, total_im, a_t, -a_im, COMPLEX)
    store(dinitial, at, mask_d, carry, carry_im, COMPLEX)
    if product is not None:
        store(product, at, mask_d, total, total_im, COMPLEX)


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
