"""Triton kernels for h_t = A_t h_{t-1} + x_t with small blocks, plain and with softmax gates formed in registers.

Blocks of m <= 4 are scanned in tiles (`triton_planes.py`), larger ones step by step (`triton_matrices.py`). The
adjoint is the same scan back in time, c_t = A_t^T (c_{t+1} + dh_t); a second kernel, parallel over all steps, turns
s_t = dh_t + c_{t+1} into gradients. With u = (h_{t-1}, v_i) that of the logits is dz_ik = s_i p_ik (u_k - h_i), from
gates formed again, so neither A nor dA of the gated scan is ever in memory. Letters: C spans, N blocks, m block size.
"""

import triton
import triton.language as tl
from torch import Tensor

from seqmix.kernels._triton import RUNTIME, Spans, chunk_length, cut, fresh, lanes, launch, span, whole_sequences
from seqmix.kernels.block_scan import triton_matrices, triton_planes

# Steps by blocks of a tile for m = 1..4: registers hold m^2 + m numbers for each of its elements.
_TILES = {1: (64, 32), 2: (64, 8), 3: (64, 4), 4: (64, 4)}
# The product of a chunk costs m^3 a step: above this size, sequences are walked whole.
_LARGEST_CHUNKED = 16
_LARGEST = 128


@triton.jit(do_not_specialize=RUNTIME)
def _gradients(
    dh, late, gates, x, h, before, dgates, dx, offsets, length, chunk, chunks, blocks,
    M: tl.constexpr, GATED: tl.constexpr, SIZE: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    # Row q is step q // blocks of block q % blocks; `before` (C, N, m) is the state before each span.
    kind: tl.constexpr = late.dtype.element_ty
    SLOTS: tl.constexpr = M + 1 if GATED else M
    item = tl.program_id(0).to(tl.int64)
    first, last = span(item, offsets, length, chunk, chunks)
    i = tl.arange(0, SIZE)
    mask_i = i < M
    for start in tl.range(first * blocks, last * blocks, BQ):
        q = start + tl.arange(0, BQ)
        inside = q < last * blocks
        mask = inside[:, None] & mask_i[None, :]
        mask_ij = mask[:, :, None] & mask_i[None, None, :]
        row = q[:, None] * M + i[None, :]
        s = tl.load(dh + row, mask=mask, other=0.0).to(kind) + tl.load(late + row, mask=mask, other=0.0)
        at_first = (q < (first + 1) * blocks)[:, None]
        past = tl.load(h + row - blocks * M, mask=mask & (q >= (first + 1) * blocks)[:, None], other=0.0).to(kind)
        place = (item * blocks + q - first * blocks)[:, None] * M + i[None, :]
        past = tl.where(at_first, tl.load(before + place, mask=mask & at_first, other=0.0), past)
        here = row[:, :, None] * SLOTS + i[None, None, :]
        if GATED:
            z = tl.load(gates + here, mask=mask_ij, other=0.0).to(kind)
            z_input = tl.load(gates + row * SLOTS + M, mask=mask, other=0.0).to(kind)
            p, p_input = triton_matrices.softmax(z, z_input, mask_i[None, None, :])
            v = tl.load(x + row, mask=mask, other=0.0).to(kind)
            # h_t again from the same rounded values that it is subtracted from: one load less, and errors cancel.
            now = tl.sum(p * past[:, None, :], 2) + p_input * v
            flow = s * p_input
            d_input = flow * (v - now)
            tl.store(dx + row, flow.to(dx.dtype.element_ty), mask=mask)
            tl.store(dgates + row * SLOTS + M, d_input.to(dgates.dtype.element_ty), mask=mask)
            d = s[:, :, None] * p * (past[:, None, :] - now[:, :, None])
        else:
            tl.store(dx + row, s.to(dx.dtype.element_ty), mask=mask)
            d = s[:, :, None] * past[:, None, :]
        tl.store(dgates + here, d.to(dgates.dtype.element_ty), mask=mask_ij)


def _chunk(sequences: Spans, blocks: int, m: int) -> int | None:
    if m > _LARGEST_CHUNKED:
        return None
    # Programs of four warps; one of a large block has a single one.
    programs = -(-blocks // _TILES[m][1]) if m in _TILES else -(-blocks // 4)
    return chunk_length(sequences.number * programs, sequences.length)


def run_scan(x: Tensor, gates: Tensor, *tensors: Tensor | None, spans: Spans, **modes: bool) -> None:
    """Launch one pass; `tensors` are the states before the spans, h, the final states and the products."""
    blocks, m = x.shape[-2:]
    arguments = (*(t if t is None else t.detach().contiguous() for t in (x, gates, *tensors)), *spans.arguments, blocks)
    if m in _TILES:
        steps, width = _TILES[m]
        width = lanes(blocks, width)
        programs = spans.number * triton.cdiv(blocks, width)
        tile = {"BT": steps, "BN": width, "num_warps": 4}
        launch(triton_planes.scan, programs, *arguments, M=m, **modes, **tile)
    else:
        size = triton.next_power_of_2(m)
        # A product of matrices has m^3 terms in registers; a single matrix has m^2.
        warps = 4 if tensors[3] is not None else max(1, min(8, size * size // 512))
        tile = {"SIZE": size, "STEPS": max(1, min(8, 512 // (size * size))), "num_warps": warps}
        launch(triton_matrices.scan, spans.number * blocks, *arguments, M=m, **modes, **tile)


def _op(gated: bool, m: int) -> str:
    op = "gated_block_scan" if gated else "block_scan"
    if m > _LARGEST:
        raise NotImplementedError(f"{op}: backend 'triton' has blocks up to m = {_LARGEST}, got m = {m}")
    return op


def forward(
    a: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, gated: bool
) -> tuple[Tensor, Tensor]:
    """h (B, T, N, m) and the final state (S, N, m); `a` holds matrices, or logits where `gated`."""
    blocks, m = x.shape[2:]
    sequences = whole_sequences(_op(gated, m), x, cu_seqlens)
    h, final = fresh(x), fresh(initial_state)
    plain = {"GATED": False, "REVERSE": False, "ADJOINT": False}
    modes = plain | {"GATED": gated}
    chunk = _chunk(sequences, blocks, m)
    if chunk is None:
        run_scan(x, a, initial_state, h, final, None, spans=sequences, **modes)
        return h, final
    chunked = cut(sequences, chunk)
    last, after = (fresh(initial_state, chunked.spans.number, blocks, m) for _ in range(2))
    product = fresh(initial_state, chunked.spans.number, blocks, m, m)
    run_scan(x, a, None, None, last, product, spans=chunked.spans, **modes)
    run_scan(last, product, initial_state, after, final, None, spans=chunked.relay, **plain)
    run_scan(x, a, chunked.starts(initial_state, after), h, last, None, spans=chunked.spans, **modes)
    return h, final


def backward(
    dh: Tensor,
    dfinal: Tensor,
    a: Tensor,
    x: Tensor,
    h: Tensor,
    initial_state: Tensor,
    cu_seqlens: Tensor | None,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `a` (matrices or logits), x (or v) and the initial state."""
    blocks, m = x.shape[2:]
    sequences = whole_sequences(_op(gated, m), x, cu_seqlens)
    modes = {"GATED": gated, "REVERSE": True, "ADJOINT": True}
    late, dinitial = fresh(initial_state, *x.shape), fresh(initial_state)
    chunk = _chunk(sequences, blocks, m)
    if chunk is None:
        run_scan(dh, a, dfinal, late, dinitial, None, spans=sequences, **modes)
    else:
        chunked = cut(sequences, chunk)
        first, handed_on = (fresh(initial_state, chunked.spans.number, blocks, m) for _ in range(2))
        product = fresh(initial_state, chunked.spans.number, blocks, m, m)
        run_scan(dh, a, None, None, first, product, spans=chunked.spans, **modes)
        relay = {"GATED": False, "REVERSE": True, "ADJOINT": False}
        run_scan(first, product, dfinal, handed_on, dinitial, None, spans=chunked.relay, **relay)
        run_scan(dh, a, chunked.ends(dfinal, handed_on), late, first, None, spans=chunked.spans, **modes)
    da, dx = fresh(a), fresh(x)
    size = triton.next_power_of_2(m)
    pieces = cut(sequences, max(1, 65_536 // (blocks * size * size)))
    tensors = (dh, late, a, x, h, pieces.states(h, initial_state), da, dx)
    launch(
        _gradients,
        pieces.spans.number,
        *(t.detach().contiguous() for t in tensors),
        *pieces.spans.arguments,
        blocks,
        M=m,
        GATED=gated,
        SIZE=size,
        BQ=max(1, 2048 // (size * size)),
        num_warps=4 if size <= 32 else 8,
    )
    return da, dx, dinitial
