"""GateLoop: the published recurrence in complex numbers, parity by half turns, and the paper's heads of one channel."""

import pytest
import torch
from torch.nn.functional import silu

from seqmix import GateLoop


def test_is_the_published_recurrence():
    torch.manual_seed(0)
    layer, x = GateLoop(8, n_heads=2, dtype=torch.float64), torch.randn(1, 6, 8, dtype=torch.float64)
    q, k, v, z = layer.in_proj(x[0]).chunk(4, -1)
    q, k = (torch.complex(*t.unflatten(-1, (2, 4)).chunk(2, -1)) for t in (q, k))  # (T, H, K)
    log_a, omega = layer.gates(x)
    a, S, rows = torch.polar(log_a.exp(), omega)[0], torch.zeros(2, 2, 4, dtype=torch.complex128), []
    for t in range(6):
        S = a[t][..., None] * S + k[t].conj()[..., None] * v[t].view(2, 1, 4)
        rows.append(layer.out_proj((q[t][..., None] * S).sum(1).real.flatten() / 2 * silu(z[t])))
    torch.testing.assert_close(layer(x)[0][0], torch.stack(rows), rtol=1e-9, atol=1e-12)


def test_half_turns_are_signs():
    layer, bits = GateLoop(2, n_heads=1), torch.tensor([0, 1, 1, 0, 1, 1, 1, 0])
    with torch.no_grad():
        layer.gate_proj.weight.zero_()
        layer.gate_proj.weight[1, 1] = torch.pi  # half a turn where the bit is one
        layer.gate_proj.bias.copy_(torch.tensor([20.0, 0.0]))  # nothing decays
    tokens = torch.stack((torch.ones(8), bits.float()), -1)[None]
    eigenvalues = layer.diagnostics(tokens)["eigenvalues"][0, :, 0, 0]
    torch.testing.assert_close(eigenvalues.cumprod(0).real, (-1.0) ** bits.cumsum(0), rtol=0, atol=1e-5)


def test_a_complex_number_for_each_channel():
    layer = GateLoop(6, n_heads=6, expand_k=2)
    assert layer.init_state(1).S.shape == (1, 6, 2, 1) and layer.state_size() == 18
    with pytest.raises(ValueError, match="d_head must be even"):
        GateLoop(6, n_heads=6)
