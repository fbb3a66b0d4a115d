"""Transitions Diag(e^w) + a b^T of layers on the generalised delta rule, as matrices and by their eigenvalues."""

import torch
from torch import Tensor


def transition(a: Tensor, b: Tensor, log_w: Tensor) -> Tensor:
    """(..., K, K) for a, b, log_w (..., K)."""
    # Not a product of matrices, which autocast would round.
    return torch.diag_embed(log_w.exp()) + a[..., :, None] * b[..., None, :]


def pair_eigenvalues(a: Tensor, b: Tensor, log_w: Tensor) -> Tensor:
    """Eigenvalues (..., K), real and ascending, where a_i b_i <= 0 for every i, as wherever a part of a key is erased.

    With channels scaled by sqrt(|b_i / a_i|) it is Diag(e^w) - s s^T with s_i^2 = -a_i b_i, which is symmetric.
    """
    s = b.sign() * (-a * b).clamp_min(0).sqrt()
    return torch.linalg.eigvalsh(transition(-s, s, log_w))
