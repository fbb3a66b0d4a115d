"""What mixers with a matrix for each head share: widths, the start of a convolution, norms."""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from seqmix._checks import positive
from seqmix.mixers.base import recurrent_dtype


def head_sizes(owner: str, d_model: int, n_heads: int, expand_k: float, expand_v: float = 1.0) -> tuple[int, int, int]:
    """`n_heads`, checked, and the widths K and V of one head's keys and values."""
    positive(owner, "n_heads", n_heads)
    width = partial(head_width, owner, d_model=d_model, n_heads=n_heads)
    return n_heads, width(name="expand_k", expand=expand_k), width(name="expand_v", expand=expand_v)


def by_heads(x: Tensor, n_heads: int, *widths: int) -> Iterator[Tensor]:
    """Parts (B, T, H, width) of x (B, T, H sum(widths)), where a part of all heads stands behind the other."""
    parts = x.split([n_heads * width for width in widths], dim=-1)
    return (part.unflatten(-1, (n_heads, -1)) for part in parts)


def head_width(owner: str, name: str, d_model: int, n_heads: int, expand: float) -> int:
    """Width of one head's keys or values where all together have `expand` d_model; `ValueError` if it is not whole."""
    total = round(expand * d_model)
    if not expand > 0 or total < 1 or abs(total - expand * d_model) > 1e-6:
        raise ValueError(f"{owner}: {name} must make a whole number of channels of d_model = {d_model}, got {expand!r}")
    if d_model % n_heads or total % n_heads:
        raise ValueError(
            f"{owner}: n_heads must divide d_model = {d_model} and {name} d_model = {total}, got {n_heads}"
        )
    return total // n_heads


@torch.no_grad()
def init_taps(weight: Tensor) -> None:
    """A short convolution (D, W) starts near the identity: a token first of all acts by itself.

    With the usual uniform taps layers that track states stall, since every transition then mixes W tokens.
    """
    torch.nn.init.uniform_(weight, -0.1 * weight.shape[1] ** -0.5, 0.1 * weight.shape[1] ** -0.5)
    weight[:, -1] += 1


def unit(x: Tensor, eps: float = 1e-6) -> Tensor:
    """x / sqrt(sum(x^2) + eps) over the last axis, computed in at least float32, in the type of x.

    The eps of flash-linear-attention's delta rule, and inside the root as there: a zero stays zero in every type, and
    its gradient grows by 1,000 at most. `torch.nn.functional.normalize` has neither.
    """
    wide = x.to(recurrent_dtype(x.dtype))
    return (wide * torch.rsqrt(wide.square().sum(-1, keepdim=True) + eps)).to(x.dtype)


def rms_norm(x: Tensor, weight: Tensor | None = None, eps: float = 1e-5) -> Tensor:
    """x / sqrt(mean(x^2) + eps) * weight over the last axis, computed in at least float32, in the type of x.

    Written out: on a CPU torch's own runs five times slower.
    """
    wide = x.to(recurrent_dtype(x.dtype))
    y = wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * weight.to(y.dtype)).to(x.dtype)
