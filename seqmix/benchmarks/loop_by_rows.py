"""The kernel that anybody would write first for `gated_block_scan`: one program for each block, a step at a time.

It is the yardstick for blocks too large for a tree scan. Forward only, sequences of one length, zero state.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit(do_not_specialize=["length", "rows"])
def _loop(logits, v, h, length, rows, m: tl.constexpr, M: tl.constexpr):  # type: ignore[no-untyped-def]
    row = tl.program_id(0).to(tl.int64)
    i, j = tl.arange(0, M), tl.arange(0, 2 * M)
    inside, slot = i < m, (i[:, None] < m) & (j[None, :] <= m)
    state = tl.zeros((2 * M,), tl.float32)
    for t in range(length):
        at = (row // rows * length + t) * rows + row % rows
        gates = tl.load(logits + at * m * (m + 1) + i[:, None] * (m + 1) + j[None, :], slot, float("-inf"))
        gates = tl.where(inside[:, None], gates.to(tl.float32), 0.0)
        gates = tl.exp(gates - tl.max(gates, 1)[:, None])
        gates /= tl.sum(gates, 1)[:, None]
        value = tl.load(v + at * m + i, inside, 0.0).to(tl.float32)
        kept = tl.sum(tl.where(j[None, :] < m, gates, 0.0) * state[None, :], 1)
        new = kept + tl.sum(tl.where(j[None, :] == m, gates, 0.0), 1) * value
        tl.store(h + at * m + i, new, inside)
        # The state lies along j: row i goes to column i.
        state = tl.sum(tl.where(i[:, None] == j[None, :], new[:, None], 0.0), 0)


def loop_by_rows(logits: Tensor, v: Tensor) -> Tensor:
    """h (B, T, N, m) from logits (B, T, N, m, m + 1) and v (B, T, N, m) on a GPU."""
    batch, length, rows, m = v.shape
    h = torch.empty_like(v, memory_format=torch.contiguous_format)
    block = triton.next_power_of_2(m)
    _loop[(batch * rows,)](
        logits.contiguous(), v.contiguous(), h, length, rows, m, block, num_warps=1, enable_fp_fusion=True
    )
    return h
