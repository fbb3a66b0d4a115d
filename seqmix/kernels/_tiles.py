"""Rows of one head in and out of what a CPU kernel works on: blocks of steps, and tiles of a state, turned over.

Numba compiles a kernel again when the kernel's own file changes, not when this one does: so every file with kernels
that call these names the digest of this one, which a test compares.
"""

import numpy as np

from seqmix.kernels._lanes import first_of, fma, load, load4, spread, store, store4, totals, turn, width
from seqmix.kernels._numba import jit

__all__ = ["fresh", "give", "put", "read", "take", "total", "turn_over"]

LANES = "affa56c3"  # of `_lanes.py`, which says why


@jit()
def fresh(rows, columns, like):
    """Zeros that begin with a cache line: vectors across two of them take twice as long."""
    size = rows * columns
    flat = np.zeros(size + 64 // like.itemsize, like.dtype)
    first = -flat.ctypes.data % 64 // like.itemsize
    return flat[first : first + size].reshape((rows, columns))


@jit()
def take(count, rows, t, h, d, numbers, target, j, like):
    """target[:, j]: of the rows from t on of one head, so many numbers from the d-th on, in vectors such as `like`."""
    step = width(like)
    whole = numbers // step * step
    # By vectors: LLVM guards the rows, which may overlap, and takes five times as long for some this short.
    for i in range(count):
        for c in range(0, whole, step):
            store(load(like, rows, t + i, h, d + c), target, i, j, c)
        for c in range(whole, numbers):
            target[i, j, c] = rows[t + i, h, d + c]


@jit()
def give(count, source, j, rows, t, h, d, numbers, like):
    """The other way round."""
    step = width(like)
    whole = numbers // step * step
    for i in range(count):
        for c in range(0, whole, step):
            store(load(like, source, i, j, c), rows, t + i, h, d + c)
        for c in range(whole, numbers):
            rows[t + i, h, d + c] = source[i, j, c]


@jit()
def put(source, target, rows, columns, like):
    """target[:rows, :columns] = source[:rows, :columns]."""
    step = width(like)
    whole = columns // step * step
    for r in range(rows):
        for c in range(0, whole, step):
            store(load(like, source, r, c), target, r, c)
        for c in range(whole, columns):
            target[r, c] = source[r, c]


@jit()
def total(source, i, j, like):
    """The sum of source[i, j], whose length is that of whole vectors."""
    found = like
    for c in range(0, source.shape[2], width(like)):
        found = found + load(like, source, i, j, c)
    return first_of(totals(found, found, found, found))


@jit()
def read(column, j, state, d, like):
    """state^T column[0, j] for the values from d on; four keys are summed as kernels do it that go on from there."""
    found = like
    for c in range(0, len(state), 4):
        s0, s1, s2, s3 = load4(like, state, c, d)
        first = fma(spread(like, column, 0, j, c), s0, spread(like, column, 0, j, c + 1) * s1)
        second = fma(spread(like, column, 0, j, c + 3), s3, spread(like, column, 0, j, c + 2) * s2)
        found = found + (first + second)
    return found


@jit()
def turn_over(source, target, rows, columns, four):
    """target[c, r] = source[r, c]."""
    whole = columns // 4 * 4
    for r in range(0, rows - 3, 4):
        for c in range(0, whole, 4):
            r0, r1, r2, r3 = load4(four, source, r, c)
            c0, c1, c2, c3 = turn(r0, r1, r2, r3)
            store4(c0, c1, c2, c3, target, c, r)
    for r in range(rows):
        for c in range(whole if r < rows // 4 * 4 else 0, columns):
            target[c, r] = source[r, c]
