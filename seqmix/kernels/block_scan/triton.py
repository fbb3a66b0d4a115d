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
    p_dh, p_late, p_gates, p_x, p_h, p_before, p_dgates, p_dx, p_offsets, length, chunk, chunks, blocks,
    M: tl.constexpr, GATED: tl.constexpr, SIZE: tl.constexpr, BQ: tl.constexpr,
):  # fmt: skip
    # Row q is step q // blocks of block q % blocks; `p_before` (C, N, m) is the state before each span.
    kind: tl.constexpr = p_late.dtype.element_ty
    SLOTS: tl.constexpr = M + 1 if GATED else M
    i_span = tl.program_id(0).to(tl.int64)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    o_i = tl.arange(0, SIZE)
    mask_i = o_i < M
    for start in tl.range(first * blocks, last * blocks, BQ):
        o_q = start + tl.arange(0, BQ)
        inside = o_q < last * blocks
        mask = inside[:, None] & mask_i[None, :]
        mask_ij = mask[:, :, None] & mask_i[None, None, :]
        o_row = o_q[:, None] * M + o_i[None, :]
        # Rows (BQ, m) of s, and of h before the step.
        # (BQ, SIZE)
        b_s = tl.load(p_dh + o_row, mask=mask, other=0.0).to(kind) + tl.load(p_late + o_row, mask=mask, other=0.0)
        at_first = (o_q < (first + 1) * blocks)[:, None]
        mask_h = mask & (o_q >= (first + 1) * blocks)[:, None]
        b_past = tl.load(p_h + o_row - blocks * M, mask=mask_h, other=0.0).to(kind)  # (BQ, SIZE)
        o_place = (i_span * blocks + o_q - first * blocks)[:, None] * M + o_i[None, :]
        b_past = tl.where(at_first, tl.load(p_before + o_place, mask=mask & at_first, other=0.0), b_past)  # (BQ, SIZE)
        o_here = o_row[:, :, None] * SLOTS + o_i[None, None, :]
        # To logits and values, or to matrices and inputs.
        if GATED:
            b_z = tl.load(p_gates + o_here, mask=mask_ij, other=0.0).to(kind)  # (BQ, SIZE, SIZE)
            b_z_input = tl.load(p_gates + o_row * SLOTS + M, mask=mask, other=0.0).to(kind)  # (BQ, SIZE)
            b_gates, b_gates_input = triton_matrices.softmax(b_z, b_z_input, mask_i[None, None, :])
            b_v = tl.load(p_x + o_row, mask=mask, other=0.0).to(kind)  # (BQ, SIZE)
            # h_t again from the same rounded values that it is subtracted from: one load less, and errors cancel.
            b_now = tl.sum(b_gates * b_past[:, None, :], 2) + b_gates_input * b_v
            b_flow = b_s * b_gates_input
            b_d_input = b_flow * (b_v - b_now)
            tl.store(p_dx + o_row, b_flow.to(p_dx.dtype.element_ty), mask=mask)
            tl.store(p_dgates + o_row * SLOTS + M, b_d_input.to(p_dgates.dtype.element_ty), mask=mask)
            b_d = b_s[:, :, None] * b_gates * (b_past[:, None, :] - b_now[:, :, None])
        else:
            tl.store(p_dx + o_row, b_s.to(p_dx.dtype.element_ty), mask=mask)
            b_d = b_s[:, :, None] * b_past[:, None, :]
        tl.store(p_dgates + o_here, b_d.to(p_dgates.dtype.element_ty), mask=mask_ij)


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
    dh: Tensor, dfinal: Tensor, a: Tensor, x: Tensor, h: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None,
    gated: bool,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
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
