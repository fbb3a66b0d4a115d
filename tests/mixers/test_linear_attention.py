"""Linear attention: the published mean over all tokens so far, and sums that low precision does not cut short."""

import torch
from einops import rearrange
from torch.nn.functional import elu

from seqmix import LinearAttention


def test_is_a_mean_of_the_values():
    torch.manual_seed(0)
    layer, x = LinearAttention(8, n_heads=2, dtype=torch.float64), torch.randn(1, 6, 8, dtype=torch.float64)
    q, k, v = rearrange(layer.in_proj(x), "b t (qkv h k) -> qkv b h t k", qkv=3, h=2)
    weights = torch.tril((elu(q) + 1) @ (elu(k) + 1).mT)
    weights = weights / (weights.sum(-1, keepdim=True) + 1e-6)
    y, state = layer(x)
    expected = layer.out_proj(rearrange(weights @ v, "b h t v -> b t (h v)"))
    torch.testing.assert_close(y, expected, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(state.S[..., -1], (elu(k) + 1).sum(2), rtol=1e-12, atol=1e-12)


def test_sums_outgrow_half_precision():
    layer, x = LinearAttention(8).half(), 3 * torch.ones(1, 3000, 8).half()
    y, _ = layer(x)
    torch.testing.assert_close(y[0, -1], y[0, 0], rtol=5e-3, atol=5e-3)  # the mean of equal values
