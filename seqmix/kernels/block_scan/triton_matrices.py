"""Triton scan of blocks with m > 4: one program walks a span of one block, its state and matrix in registers.

Loads of STEPS steps are under way before the first of them is used. The axes are padded to a power of two, where gates
are zero.
"""

import triton
import triton.language as tl

from seqmix.kernels._triton import RUNTIME, span


@triton.jit
def softmax(z, z_input, mask_j):
    """Gates (..., i, j) and input gates (..., i) of logits in the same shapes; `mask_j` says which j are slots."""
    z = tl.where(mask_j, z, float("-inf"))
    # A maximum may drop NaN; the exponentials of its row are NaN all the same.
    largest = tl.maximum(tl.max(z, -1), z_input)
    w = tl.exp(z - tl.expand_dims(largest, -1))
    w_input = tl.exp(z_input - largest)
    total = tl.sum(w, -1) + w_input
    return w / tl.expand_dims(total, -1), w_input / total


@triton.jit(do_not_specialize=RUNTIME)
def scan(
    p_x, p_gates, p_initial, p_h, p_final, p_product, p_offsets, length, chunk, chunks, blocks,
    M: tl.constexpr, GATED: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
    SIZE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    # The same contract as in triton_planes.py. Masks are blocks, also those of a step (0 * i + t < last): Triton's
    # interpreter takes no scalar beside a block.
    kind: tl.constexpr = p_final.dtype.element_ty
    SLOTS: tl.constexpr = M + 1 if GATED else M
    i_span = (tl.program_id(0) // blocks).to(tl.int64)
    i_n = tl.program_id(0) % blocks
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    o_i = tl.arange(0, SIZE)
    mask_i = o_i < M
    mask_ij = mask_i[:, None] & mask_i[None, :]
    o_state = (i_span * blocks + i_n) * M
    # The state before the span (m,), and the product of transitions (m, m).
    b_carry = tl.zeros((SIZE,), kind)
    if p_initial is not None:
        b_carry = tl.load(p_initial + o_state + o_i, mask=mask_i, other=0.0)  # (SIZE,)
    if p_product is not None:
        total = tl.where(o_i[:, None] == o_i[None, :], 1.0, 0.0).to(kind)
    if ADJOINT:
        if p_h is not None:
            tl.store(p_h + ((last - 1) * blocks + i_n) * M + o_i, b_carry, mask=mask_i & (0 * o_i + last > first))
    # Loads of several steps at once, then the steps one by one.
    for start in tl.range(first, last, STEPS):
        # Loads of the next steps.
        matrices = ()
        vectors = ()
        openings = ()
        for u in tl.static_range(STEPS):
            t = start + u
            mask = mask_i & (0 * o_i + t < last)
            if REVERSE:
                t = first + last - 1 - t
            o_at = t * blocks + i_n
            o_here = o_at * (M * SLOTS) + o_i[:, None] * SLOTS + o_i[None, :]
            # (SIZE, SIZE)
            matrices = matrices + (tl.load(p_gates + o_here, mask=mask[:, None] & mask_i[None, :], other=0.0).to(kind),)
            vectors = vectors + (tl.load(p_x + o_at * M + o_i, mask=mask, other=0.0).to(kind),)  # (SIZE,)
            if GATED:
                b_opening = tl.load(p_gates + (o_at * M + o_i) * SLOTS + M, mask=mask, other=0.0).to(kind)  # (SIZE,)
                openings = openings + (b_opening,)
        # A step: the softmax of its gates, the product with the state, the product of transitions.
        for u in tl.static_range(STEPS):
            t = start + u
            inside = 0 * o_i + t < last
            mask = mask_i & inside
            if REVERSE:
                t = first + last - 1 - t
            b_a, b_b = matrices[u], vectors[u]
            if GATED:
                b_a, b_opening = softmax(b_a, openings[u], mask_i[None, :])
                b_a = tl.where(mask_i[:, None], b_a, 0.0)
                if not ADJOINT:
                    b_b *= b_opening
            o_at = (t * blocks + i_n) * M
            if ADJOINT:
                value = tl.sum(b_a * (b_carry + b_b)[:, None], 0)
                if p_h is not None:
                    tl.store(p_h + o_at - blocks * M + o_i, value, mask=mask & (0 * o_i + t > first))
            else:
                value = tl.sum(b_a * b_carry[None, :], 1) + b_b
                if p_h is not None:
                    tl.store(p_h + o_at + o_i, value.to(p_h.dtype.element_ty), mask=mask)
            b_carry = tl.where(inside, value, b_carry)
            if p_product is not None:
                if ADJOINT:
                    turned = tl.sum(b_a[:, :, None] * total[:, None, :], 0)
                else:
                    turned = tl.sum(b_a[:, :, None] * total[None, :, :], 1)
                total = tl.where(inside[:, None], turned, total)
    # What the span hands on.
    tl.store(p_final + o_state + o_i, b_carry, mask=mask_i)
    if p_product is not None:
        tl.store(p_product + (o_state + o_i[:, None]) * M + o_i[None, :], total, mask=mask_ij)
