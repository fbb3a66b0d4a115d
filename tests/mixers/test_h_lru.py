"""`HLRU`: the difference equation with all lags read out, and why it cannot do parity."""

import pytest
import torch

from seqmix.mixers import HLRU


def test_equals_the_equations() -> None:
    layer = HLRU(6, 4, order=3, dtype=torch.float64)
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    gates = layer.proj_gates(x).view(2, 20, 4, 4).softmax(-1)
    v = layer.proj_v(x)
    lags, expected = [torch.zeros(2, 4, dtype=torch.float64)] * 3, []
    for t in range(20):
        h = sum(gates[:, t, :, i] * lags[i] for i in range(3)) + gates[:, t, :, 3] * v[:, t]
        lags = [h, *lags[:2]]
        expected.append(layer.proj_out(torch.stack(lags, -1).flatten(1)))
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(state.lags, torch.stack(lags, -1), rtol=1e-10, atol=1e-12)


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
