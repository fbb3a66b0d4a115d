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
    x, gates, initial, h, final, product, offsets, length, chunk, chunks, blocks,
    M: tl.constexpr, GATED: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
    SIZE: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    # The same contract as in triton_planes.py. Masks are blocks, also those of a step (0 * i + t < last): Triton's
    # interpreter takes no scalar beside a block.
    kind: tl.constexpr = final.dtype.element_ty
    SLOTS: tl.constexpr = M + 1 if GATED else M
    item = (tl.program_id(0) // blocks).to(tl.int64)
    n = tl.program_id(0) % blocks
    first, last = span(item, offsets, length, chunk, chunks)
    i = tl.arange(0, SIZE)
    mask_i = i < M
    mask_ij = mask_i[:, None] & mask_i[None, :]
    state = (item * blocks + n) * M
    # The state before the span (m,), and the product of transitions (m, m).
    carry = tl.zeros((SIZE,), kind)
    if initial is not None:
        carry = tl.load(initial + state + i, mask=mask_i, other=0.0)
    if product is not None:
        total = tl.where(i[:, None] == i[None, :], 1.0, 0.0).to(kind)
    if ADJOINT:
        if h is not None:
            tl.store(h + ((last - 1) * blocks + n) * M + i, carry, mask=mask_i & (0 * i + last > first))
    # Loads of several steps at once, then the steps one by one.
    for start in tl.range(first, last, STEPS):
        matrices = ()
        vectors = ()
        openings = ()
        for u in tl.static_range(STEPS):
            t = start + u
            mask = mask_i & (0 * i + t < last)
            if REVERSE:
                t = first + last - 1 - t
            at = t * blocks + n
            here = at * (M * SLOTS) + i[:, None] * SLOTS + i[None, :]
            matrices = matrices + (tl.load(gates + here, mask=mask[:, None] & mask_i[None, :], other=0.0).to(kind),)
            vectors = vectors + (tl.load(x + at * M + i, mask=mask, other=0.0).to(kind),)
            if GATED:
                opening = tl.load(gates + (at * M + i) * SLOTS + M, mask=mask, other=0.0).to(kind)
                openings = openings + (opening,)
        # A step: the softmax of its gates, the product with the state, the product of transitions.
        for u in tl.static_range(STEPS):
            t = start + u
            inside = 0 * i + t < last
            mask = mask_i & inside
            if REVERSE:
                t = first + last - 1 - t
            a, b = matrices[u], vectors[u]
            if GATED:
                a, opening = softmax(a, openings[u], mask_i[None, :])
                a = tl.where(mask_i[:, None], a, 0.0)
                if not ADJOINT:
                    b *= opening
            at = (t * blocks + n) * M
            if ADJOINT:
                value = tl.sum(a * (carry + b)[:, None], 0)
                if h is not None:
                    tl.store(h + at - blocks * M + i, value, mask=mask & (0 * i + t > first))
            else:
                value = tl.sum(a * carry[None, :], 1) + b
                if h is not None:
                    tl.store(h + at + i, value.to(h.dtype.element_ty), mask=mask)
            carry = tl.where(inside, value, carry)
            if product is not None:
                if ADJOINT:
                    turned = tl.sum(a[:, :, None] * total[:, None, :], 0)
                else:
                    turned = tl.sum(a[:, :, None] * total[None, :, :], 1)
                total = tl.where(inside[:, None], turned, total)
    # What the span hands on.
    tl.store(final + state + i, carry, mask=mask_i)
    if product is not None:
        tl.store(product + (state + i[:, None]) * M + i[None, :], total, mask=mask_ij)
