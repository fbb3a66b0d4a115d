"""Softmax attention over given keys: torch's own, or a plain one that can be differentiated again."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention.bias import causal_lower_right

from seqmix.kernels._backend import preferred
from seqmix.kernels.transforms import HOW, is_transformed, refuse_tangents
from seqmix.mixers._lower_right import lower_right

__all__ = ["softmax_attention"]


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(q k^T / sqrt(K) + mask) v, (B, H, T, K), for q (B, H, T, K) and k, v (B, H, M, K).

    `mask` (T, M) or (B, H, T, M) is boolean, true where a query sees a key, or added to the scores; None is causal, the
    last query sees every key, and takes no memory of T M numbers. `NotImplementedError` for forward-mode AD and second
    derivatives, but under the reference.
    """
    if preferred() == "reference":
        return _plain(q, k, v, mask)
    refuse_tangents("Attention", q, k, v, mask)
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        for tensor in (q, k, v):
            if tensor.requires_grad and not is_transformed(tensor):
                tensor.register_hook(_only_once)
    length, keys = q.shape[2], k.shape[2]
    if mask is not None or length == keys:
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)
    if length == 1:  # sees them all
        return F.scaled_dot_product_attention(q, k, v)
    if any(map(is_transformed, (q, k, v))):
        seen = torch.ones(length, keys, dtype=torch.bool, device=q.device).tril(keys - length)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
    if q.device.type == "cpu":
        return lower_right(q, k, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(length, keys))


def _plain(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    if mask is None:
        mask = torch.ones(q.shape[-2], k.shape[-2], dtype=torch.bool, device=q.device)
        mask = mask.tril(k.shape[-2] - q.shape[-2])
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
