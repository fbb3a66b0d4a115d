"""Softmax attention over given keys: torch's own, or a plain one that can be differentiated again."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from seqmix.kernels._backend import preferred
from seqmix.kernels.transforms import HOW, is_transformed, refuse_tangents

__all__ = ["softmax_attention"]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K) + mask) v, (B, H, T, K), for q (B, H, T, K) and k, v (B, H, M, K).

    `mask` (T, M) or (B, H, T, M) is boolean, true where a query sees a key, or added to the scores; None is causal with
    M = T. `NotImplementedError` for forward-mode AD and second derivatives, but under the reference.
    """
    if preferred() == "reference":
        return _plain(q, k, v, mask)
    refuse_tangents("Attention", q, k, v, mask)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        for tensor in (q, k, v):
            if tensor.requires_grad and not is_transformed(tensor):
                tensor.register_hook(_only_once)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device).tril()
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    with torch.autocast(q.device.type, enabled=False):
        scores = q.to(wide) @ k.to(wide).mT / math.sqrt(q.shape[-1])
        scores = scores.masked_fill(~mask, -math.inf) if mask.dtype == torch.bool else scores + mask
        return (scores.softmax(-1) @ v.to(wide)).to(v.dtype)


def _only_once(gradient: Tensor) -> None:
    # With create_graph the gradient has one of its own, which torch has no derivative for.
    if gradient.requires_grad:
        gradient.register_hook(_refuse)


def _refuse(gradient: Tensor) -> None:
    raise NotImplementedError(f"Attention: second derivatives need {HOW}")
