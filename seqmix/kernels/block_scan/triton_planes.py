"""Triton scan of blocks with m <= 4: the m^2 + m numbers of a step are as many tiles of time by blocks.

`tl.associative_scan` hands its combine function one number of each tile, so a product of m x m matrices is written out
over tuples. A program scans a tile of BT steps, adds the carry, and goes on, in one pass over memory.
"""

import triton
import triton.language as tl

from seqmix.kernels._triton import RUNTIME, program_of, span


@triton.jit
def compose(first, then, M: tl.constexpr):
    """(A, b) after another: (A' A, A' b + b'), each a tuple of a matrix by rows and a vector."""
    composed = ()
    for i in tl.static_range(M):
        for j in tl.static_range(M):
            value = then[i * M] * first[j]
            for k in tl.static_range(1, M):
                value += then[i * M + k] * first[k * M + j]
            composed = composed + (value,)
    for i in tl.static_range(M):
        value = then[M * M + i]
        for k in tl.static_range(M):
            value += then[i * M + k] * first[M * M + k]
        composed = composed + (value,)
    return composed


# Triton 3.6 takes no *args in a combine function.
@triton.jit
def _combine1(a, b, c, d):
    return compose((a, b), (c, d), 1)


@triton.jit
def _combine2(a0, a1, a2, a3, a4, a5, b0, b1, b2, b3, b4, b5):
    return compose((a0, a1, a2, a3, a4, a5), (b0, b1, b2, b3, b4, b5), 2)


@triton.jit
def _combine3(
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11,
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11,
):  # fmt: skip
    first = (a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11)
    return compose(first, (b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11), 3)


@triton.jit
def _combine4(
    a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19,
    b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15, b16, b17, b18, b19,
):  # fmt: skip
    first = (a0, a1, a2, a3, a4, a5, a6, a7, a8, a9, a10, a11, a12, a13, a14, a15, a16, a17, a18, a19)
    then = (b0, b1, b2, b3, b4, b5, b6, b7, b8, b9, b10, b11, b12, b13, b14, b15, b16, b17, b18, b19)
    return compose(first, then, 4)


@triton.jit
def _scan_tile(step, M: tl.constexpr):
    if M == 1:
        scanned = tl.associative_scan(step, 0, _combine1)
    elif M == 2:
        scanned = tl.associative_scan(step, 0, _combine2)
    elif M == 3:
        scanned = tl.associative_scan(step, 0, _combine3)
    else:
        scanned = tl.associative_scan(step, 0, _combine4)
    return scanned


@triton.jit
def _softmax(p_gates, o_at, mask, M: tl.constexpr, kind: tl.constexpr):
    """The M recurrent gates of every row of a block, row after row, and then the M input gates."""
    gates = ()
    inputs = ()
    for i in tl.static_range(M):
        logits = ()
        for k in tl.static_range(M + 1):
            # (BT, BN)
            logits = logits + (tl.load(p_gates + (o_at * M + i) * (M + 1) + k, mask=mask, other=0.0).to(kind),)
        largest = logits[0]
        for k in tl.static_range(1, M + 1):
            largest = tl.maximum(largest, logits[k], propagate_nan=tl.PropagateNan.ALL)
        weights = ()
        total = tl.zeros_like(largest)
        for k in tl.static_range(M + 1):
            weight = tl.exp(logits[k] - largest)
            weights = weights + (weight,)
            total += weight
        for k in tl.static_range(M):
            gates = gates + (weights[k] / total,)
        inputs = inputs + (weights[M] / total,)
    return gates + inputs


@triton.jit(do_not_specialize=RUNTIME)
def scan(
    p_x, p_gates, p_initial, p_h, p_final, p_product, p_offsets, length, chunk, chunks, blocks,
    M: tl.constexpr, GATED: tl.constexpr, REVERSE: tl.constexpr, ADJOINT: tl.constexpr,
    BT: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    # Forward: h_t = A_t h_{t-1} + x_t. Adjoint, with REVERSE: c_t = A_t^T (c_{t+1} + x_t), where h receives what comes
    # into step t, c_{t+1}. Without `p_h` only `p_final` and `p_product`, the state and the product of transitions at
    # the end of the span, are wanted.
    kind: tl.constexpr = p_final.dtype.element_ty
    i_span, o_n = program_of(blocks, BN)
    first, last = span(i_span, p_offsets, length, chunk, chunks)
    mask_n = o_n < blocks
    o_step = tl.arange(0, BT)
    o_state = (i_span * blocks + o_n) * M
    # The state before the span, m planes (BN,), and the map of the span: m m planes and m zeros.
    b_carry = ()
    total = ()
    for i in tl.static_range(M):
        if p_initial is None:
            b_carry = b_carry + (tl.zeros((BN,), kind),)
        else:
            b_carry = b_carry + (tl.load(p_initial + o_state + i, mask=mask_n, other=0.0),)  # (BN,)
        for j in tl.static_range(M):
            total = total + (tl.full((BN,), 1.0 if i == j else 0.0, kind),)
    for i in tl.static_range(M):
        total = total + (tl.zeros((BN,), kind),)
        if ADJOINT:
            if p_h is not None:
                tl.store(p_h + ((last - 1) * blocks + o_n) * M + i, b_carry[i], mask=mask_n & (0 * o_n + last > first))
    for start in tl.range(first, last, BT):
        # A tile: its gates, then its inputs, planes (BT, BN) for every entry of a matrix or vector.
        o_t = start + o_step
        mask = (o_t < last)[:, None] & mask_n[None, :]
        if REVERSE:
            o_t = first + last - 1 - o_t
        o_at = o_t[:, None] * blocks + o_n[None, :]
        if GATED:
            a = _softmax(p_gates, o_at, mask, M, kind)
        else:
            a = ()
            for k in tl.static_range(M * M):
                a = a + (tl.load(p_gates + o_at * (M * M) + k, mask=mask, other=0.0).to(kind),)  # (BT, BN)
        inputs = ()
        for i in tl.static_range(M):
            b_x = tl.load(p_x + o_at * M + i, mask=mask, other=0.0).to(kind)  # (BT, BN)
            if GATED and not ADJOINT:
                b_x *= a[M * M + i]
            inputs = inputs + (b_x,)
        # The affine maps of all steps, composed along time by a scan.
        matrix = ()
        vector = ()
        for i in tl.static_range(M):
            for j in tl.static_range(M):
                matrix = matrix + (a[j * M + i] if ADJOINT else a[i * M + j],)
            if ADJOINT:
                value = a[i] * inputs[0]
                for j in tl.static_range(1, M):
                    value += a[j * M + i] * inputs[j]
                vector = vector + (value,)
            else:
                vector = vector + (inputs[i],)
        scanned = _scan_tile(matrix + vector, M)
        # The state before the tile goes through; the last row is the state after it.
        is_end = (o_step == tl.minimum(last - start, BT) - 1)[:, None]
        following = ()
        for i in tl.static_range(M):
            value = scanned[M * M + i]
            for j in tl.static_range(M):
                value += scanned[i * M + j] * b_carry[j][None, :]
            if p_h is not None:
                if ADJOINT:
                    tl.store(p_h + (o_at - blocks) * M + i, value, mask=mask & (o_t > first)[:, None])
                else:
                    tl.store(p_h + o_at * M + i, value.to(p_h.dtype.element_ty), mask=mask)
            following = following + (tl.sum(tl.where(is_end, value, 0.0), 0),)
        b_carry = following
        if p_h is None:
            ends = ()
            for k in tl.static_range(M * M):
                ends = ends + (tl.sum(tl.where(is_end, scanned[k], 0.0), 0),)
            total = compose(total, ends + b_carry, M)
    # What the span hands on.
    for i in tl.static_range(M):
        tl.store(p_final + o_state + i, b_carry[i], mask=mask_n)
        if p_product is not None:
            for j in tl.static_range(M):
                tl.store(p_product + (o_state + i) * M + j, total[i * M + j], mask=mask_n)
