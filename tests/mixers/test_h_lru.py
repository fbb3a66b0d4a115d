"""`HLRU`: the released loops, and why no order of it does parity with gates that are not signed."""

import pytest
import torch
from torch.nn.functional import pad

from seqmix.mixers import HLRU
from tests.mixers.test_bd_lru import RELEASED


@pytest.mark.parametrize("selective", [True, False])
@pytest.mark.parametrize("normalization", RELEASED)
def test_equals_the_released_loop(normalization: str, selective: bool) -> None:
    """`hidden_x = einsum('bci, bcij -> bcj', hidden_x, A_qk) + nl`: gates in column 0, ones above the diagonal."""
    layer = HLRU(6, 4, order=3, normalization=normalization, selective=selective, dtype=torch.float64)
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    if selective:
        z = (x @ layer.proj_gates.weight.T + layer.proj_gates.bias).view(2, 20, 4, 4)
    else:
        z = layer.proj_gates.A_w.expand(2, 20, 4, 4)
    gates, v = RELEASED[normalization](z), x @ layer.proj_v.weight.T
    A = torch.diag(torch.ones(2, dtype=torch.float64), 1) + pad(gates[..., :-1, None], (0, 2))  # (B, T, N, m, m)
    nl = pad((gates[..., -1] * v)[..., None], (0, 2))
    hidden, expected = torch.zeros(2, 4, 3, dtype=torch.float64), []
    for t in range(20):
        hidden = torch.einsum("bci,bcij->bcj", hidden, A[:, t]) + nl[:, t]
        expected.append(hidden.flatten(1) @ layer.proj_out.weight.T)
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.lags, hidden, rtol=1e-9, atol=1e-11)


def test_the_released_static_layer_reads_the_newest_lag() -> None:
    """`hlru_nonsel.py` returns `hidden_x[:, :, 0]`: here a read-out that is the identity on newest lags."""
    layer = HLRU(4, 4, order=3, selective=False, dtype=torch.float64)
    with torch.no_grad():
        layer.proj_out.weight.copy_(torch.eye(4, dtype=torch.float64).repeat_interleave(3, 1))
        layer.proj_out.weight.view(4, 4, 3)[..., 1:] = 0
    x = torch.randn(2, 9, 4, dtype=torch.float64)
    gates, v = layer.proj_gates.A_w.softmax(-1), x @ layer.proj_v.weight.T
    h = [torch.zeros(2, 4, dtype=torch.float64)] * 3
    for t in range(9):
        h.append(sum(gates[:, i] * h[-1 - i] for i in range(3)) + gates[:, 3] * v[:, t])
    torch.testing.assert_close(layer(x)[0], torch.stack(h[3:], 1), rtol=1e-9, atol=1e-12)


def test_signed_gates_can_flip_a_sign() -> None:
    layer = HLRU(2, 1, order=1, normalization="tanh", dtype=torch.float64)
    with torch.no_grad():
        layer.proj_gates.weight.zero_()
        layer.proj_gates.bias.copy_(torch.tensor([-50.0, 0.0]))
    start = layer.init_state(1)._replace(lags=torch.ones(1, 1, 1, dtype=torch.float64))
    assert layer(torch.zeros(1, 3, 2, dtype=torch.float64), start)[1].lags.item() == pytest.approx(-1)


@pytest.mark.parametrize("order", [1, 2, 5])
def test_every_transition_fixes_the_constant_vector(order: int) -> None:
    """Without input a constant history stays constant whatever the gates: no sign ever flips, so no parity."""
    layer = HLRU(6, 4, order=order, dtype=torch.float64)
    torch.nn.init.normal_(layer.proj_gates.weight, std=3)
    with torch.no_grad():
        layer.proj_gates.bias.view(4, order + 1)[:, -1] = -1000.0  # close the input gate
    start = layer.init_state(2)._replace(lags=torch.ones(2, 4, order, dtype=torch.float64))
    _, state = layer(torch.randn(2, 50, 6, dtype=torch.float64), start)
    torch.testing.assert_close(state.lags, start.lags, rtol=1e-12, atol=1e-12)


def test_eigenvalues_are_the_roots_of_the_characteristic_polynomial() -> None:
    layer = HLRU(6, 4, order=3, dtype=torch.float64)
    torch.nn.init.normal_(layer.proj_gates.weight)
    seen = layer.diagnostics(torch.randn(1, 5, 6, dtype=torch.float64))
    z, a = seen["eigenvalues"], seen["gates"][..., :-1].unsqueeze(-2).to(torch.complex128)
    powers = torch.stack([z**2, z, torch.ones_like(z)], -1)
    torch.testing.assert_close(z**3, (a * powers).sum(-1), rtol=1e-9, atol=1e-9)


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="order must be a positive integer, got 0"):
        HLRU(8, order=0)
    with pytest.raises(ValueError, match=r"d_state must be a positive integer, got 2.5"):
        HLRU(8, 2.5)
    with pytest.raises(ValueError, match=r"HLRU: normalization must be one of 'softmax', .*, got 'soft'"):
        HLRU(8, normalization="soft")
