"""The torch operator behind a scan that comes in two forms: with its weights, and with the logits of softmax gates.

`block_scan` and `higher_order_scan` differ in shapes and kernels and in nothing that torch has to know: both take
weights or logits `a`, input or values `x`, the state before the first step, offsets of packed sequences, and which form
it is.
"""

from typing import Any

import torch
from torch import Tensor

from seqmix.kernels._backend import load_kernels
from seqmix.kernels._operator import operator

__all__ = ["gated_op"]


def gated_op(name: str, package: str) -> Any:
    """Register `seqmix::<name>` and its backward pass, with the kernels of `package`; returns the operator.

    It takes (a, x, initial_state, cu_seqlens, gated, backend), all positional and in their final types, and returns h
    like x and the final state like initial_state.
    """

    owner = f"{name} and gated_{name}"

    @operator(name, owner)
    def scan(
        a: Tensor, x: Tensor, initial_state: Tensor, cu_seqlens: Tensor | None, gated: bool, backend: str
    ) -> tuple[Tensor, Tensor]:
        return load_kernels(package, backend).forward(a, x, initial_state, cu_seqlens, gated)

    @operator(f"{name}_backward", owner)
    def scan_backward(
        dh: Tensor,
        dfinal: Tensor,
        a: Tensor,
        x: Tensor,
        h: Tensor,
        initial_state: Tensor,
        cu_seqlens: Tensor | None,
        gated: bool,
        backend: str,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return load_kernels(package, backend).backward(dh, dfinal, a, x, h, initial_state, cu_seqlens, gated)

    @scan.register_fake
    def _(a, x, initial_state, cu_seqlens, gated, backend):  # type: ignore[no-untyped-def]
        return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (x, initial_state))

    @scan_backward.register_fake
    def _(dh, dfinal, a, x, h, initial_state, cu_seqlens, gated, backend):  # type: ignore[no-untyped-def]
        return tuple(torch.empty_like(t, memory_format=torch.contiguous_format) for t in (a, x, initial_state))

    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        a, x, initial_state, cu_seqlens, ctx.gated, ctx.backend = inputs
        ctx.save_for_backward(a, x, output[0], initial_state, cu_seqlens)

    def backward(ctx, dh, dfinal):  # type: ignore[no-untyped-def]
        a, x, h, initial_state, cu_seqlens = ctx.saved_tensors
        gradients = scan_backward(dh, dfinal, a, x, h, initial_state, cu_seqlens, ctx.gated, ctx.backend)
        return *gradients, None, None, None

    scan.register_autograd(backward, setup_context=setup_context)
    scan_backward.once()
    return scan
