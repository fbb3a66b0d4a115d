"""HGRN2: the published recurrence step by step, with a lower bound and without, and gates that saturate."""

import pytest
import torch

from seqmix import HGRN2
from seqmix.mixers._heads import rms_norm


@pytest.mark.parametrize("bound", [0.0, 0.7])
def test_is_the_published_recurrence(bound):
    torch.manual_seed(0)
    layer, x = HGRN2(6, n_heads=1, lower_bound=bound, dtype=torch.float64), torch.randn(1, 7, 6, dtype=torch.float64)
    f = bound + (1 - bound) * layer.f_proj(x).sigmoid()
    q, v, S, rows = torch.nn.functional.silu(layer.q_proj(x)), layer.i_proj(x), torch.zeros(6, 6).double(), []
    for t in range(7):
        S = f[0, t, :, None] * S + (1 - f[0, t, :, None]) * v[0, t]
        rows.append(layer.out_proj(rms_norm(q[0, t] @ S / 6**0.5)))
    y, state = layer(x)
    torch.testing.assert_close(y[0], torch.stack(rows), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.S[0, 0], S, rtol=1e-12, atol=1e-12)
    assert layer.diagnostics(x)["eigenvalues"].min() >= bound


@pytest.mark.parametrize("bound", [0.0, 0.7])
def test_saturated_gates_keep_their_gradient_finite(bound):
    layer, x = HGRN2(8, lower_bound=bound), (1e4 * torch.randn(1, 5, 8)).requires_grad_()
    log_f, k = layer.gates(x)
    torch.testing.assert_close(log_f.exp() + k, torch.ones_like(k))
    (log_f.clamp(min=-50).sum() + k.sum()).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("bound", [-0.1, 1.0])
def test_a_bound_out_of_range_is_named(bound):
    with pytest.raises(ValueError, match=r"lower_bound must be in \[0, 1\)"):
        HGRN2(8, lower_bound=bound)
