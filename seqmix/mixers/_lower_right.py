"""Causal attention of T queries over M > T keys, the mask aligned at the lower right, without a mask in memory.

Two pieces, the keys before the queries' own, which all of them see, and their own, causal. With o_i and the log of the
sum of exponentials l_i (B, H, T) of each,

    l = log(e^{l_1} + e^{l_2})        o = e^{l_1 - l} o_1 + e^{l_2 - l} o_2

and backward each piece alone, given o and l of the whole: its weights are e^{q k - l}, and what the softmax subtracts,
do . o, is the whole's (Liu et al. 2023, 2310.01889, where pieces are those of other devices).
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = ["lower_right"]

_flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_flash_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def lower_right(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """o (B, H, T, K) for q (B, H, T, K), k and v (B, H, M, K) on the CPU; 1 / sqrt(K) is the scale."""
    return _LowerRight.apply(q, k, v)


class _LowerRight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        split = [k.shape[2] - q.shape[2], q.shape[2]]
        pieces = zip(k.split(split, 2), v.split(split, 2), (False, True), strict=True)
        (before, l_before), (own, l_own) = (_flash(q, k, v, 0.0, causal) for k, v, causal in pieces)
        whole = torch.logaddexp(l_before, l_own)
        parts = (o * (each - whole).exp().unsqueeze(-1) for o, each in ((before, l_before), (own, l_own)))
        out = sum(parts).to(q.dtype)
        ctx.split = split
        ctx.save_for_backward(q, k, v, out, whole)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Tensor) -> Any:
        q, k, v, out, whole = ctx.saved_tensors
        pieces = zip(k.split(ctx.split, 2), v.split(ctx.split, 2), (False, True), strict=True)
        found = [_flash_backward(dout, q, k, v, out, whole, 0.0, causal) for k, v, causal in pieces]
        (dq, *before), (dq_own, *own) = found
        dk, dv = (torch.cat(each, 2) for each in zip(before, own, strict=True))
        return dq + dq_own, dk, dv
