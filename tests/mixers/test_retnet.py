"""RetNet: the published recurrence in complex numbers, and the published decays."""

import pytest
import torch
from torch.nn.functional import silu

from seqmix import RetNet
from seqmix.mixers._heads import rms_norm


def test_is_the_published_recurrence():
    """S_n = gamma e^{i theta} S_{n-1} + k v^T in complex keys, whose real part is read."""
    torch.manual_seed(0)
    layer, x = RetNet(8, n_heads=2, dtype=torch.float64), torch.randn(1, 6, 8, dtype=torch.float64)
    q, k, v, z = layer.in_proj(x[0]).split((8, 8, 16, 16), -1)
    q, k = (torch.complex(*t.unflatten(-1, (2, 4)).chunk(2, -1)) for t in (q, k))  # (T, H, K/2)
    turn = torch.exp(1j * 10_000.0 ** -torch.tensor([0, 0.5], dtype=torch.float64))
    S, rows = torch.zeros(2, 2, 8, dtype=torch.complex128), []
    gamma = torch.tensor([1 - 1 / 32, 1 - 1 / 64], dtype=torch.float64)[:, None, None]
    for t in range(6):
        S = gamma * turn[:, None] * S + k[t].conj()[..., None] * v[t].view(2, 1, 8)
        o = (q[t][..., None] * S).sum(1).real / 2
        rows.append(layer.out_proj(rms_norm(o).flatten() * silu(z[t])))
    torch.testing.assert_close(layer(x)[0][0], torch.stack(rows), rtol=1e-9, atol=1e-12)


def test_decays_are_the_published_ones_in_every_type():
    expected = torch.tensor([-0.03175, -0.01575, -0.00784, -0.00391])
    found = RetNet(16, dtype=torch.bfloat16).log_decay(torch.zeros(1, 1, 16, dtype=torch.bfloat16))
    torch.testing.assert_close(found[0, 0], expected, rtol=0, atol=1e-5)


def test_an_odd_key_is_named():
    with pytest.raises(ValueError, match="d_head must be even"):
        RetNet(12, n_heads=4)
