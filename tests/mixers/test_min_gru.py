"""minGRU and minLSTM: the published equations step by step, gates that sum to one, and states that stay positive."""

import pytest
import torch

from seqmix import MinGRU, MinLSTM


@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_is_the_published_recurrence(kind):
    torch.manual_seed(0)
    layer, x = kind(8, d_state=5, dtype=torch.float64), torch.randn(2, 7, 8, dtype=torch.float64)
    gates, u = layer.gate_proj(x).sigmoid(), layer.in_proj(x)
    if kind is MinGRU:
        keep, write = 1 - gates, gates
    else:
        f, i = gates.chunk(2, -1)
        keep, write = f / (f + i), i / (f + i)
    h, expected = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(7):
        h = keep[:, t] * h + write[:, t] * torch.where(u[:, t] >= 0, u[:, t] + 0.5, u[:, t].sigmoid())
        expected.append(layer.out_proj(h))
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.h, h, rtol=1e-12, atol=1e-12)
    assert (state.h > 0).all()


@pytest.mark.parametrize("kind", [MinGRU, MinLSTM])
def test_saturated_gates_are_finite(kind):
    layer = kind(4)
    x = (1e4 * torch.randn(1, 9, 4)).requires_grad_()
    keep, write = layer.gates(x)
    torch.testing.assert_close(keep + write, torch.ones_like(keep))
    layer(x)[0].sum().backward()
    assert x.grad.isfinite().all()
