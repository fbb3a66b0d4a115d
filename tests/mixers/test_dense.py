"""`DenseRNN`: its equations and its bound on the transition."""

import pytest
import torch

from seqmix.mixers import DenseRNN


def test_equals_the_equations() -> None:
    layer = DenseRNN(6, 5, dtype=torch.float64)
    torch.nn.init.normal_(layer.proj_transition.weight)
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    h, expected = torch.zeros(2, 5, dtype=torch.float64), []
    for t in range(20):
        a = layer.proj_transition(x[:, t]).view(2, 5, 5)
        mean = torch.linalg.svdvals(a).pow(32).mean(-1)[:, None, None] ** (1 / 32)
        h = torch.einsum("bij,bj->bi", a / mean.clamp_min(1), h) + layer.proj_in(x[:, t])
        expected.append(layer.proj_out(h))
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(state.h, h, rtol=1e-9, atol=1e-9)


def test_rotations_are_in_reach_and_determinants_are_bounded() -> None:
    layer = DenseRNN(6, 5, dtype=torch.float64)
    rotation = torch.linalg.qr(torch.randn(5, 5, dtype=torch.float64)).Q
    with torch.no_grad():
        layer.proj_transition.weight.zero_()
        layer.proj_transition.bias.copy_(rotation.flatten())
    torch.testing.assert_close(layer.transition(torch.randn(1, 1, 6, dtype=torch.float64))[0, 0], rotation)
    torch.nn.init.normal_(layer.proj_transition.weight, std=3)
    transitions = layer.transition(torch.randn(1, 100, 6, dtype=torch.float64))
    assert torch.linalg.det(transitions).abs().max() <= 1 + 1e-9
    assert torch.linalg.svdvals(transitions).max() <= 5 ** (1 / 32) + 1e-9, "no direction grows much"
    magnitudes = layer.diagnostics(torch.randn(1, 100, 6, dtype=torch.float64))["eigenvalues"].abs()
    assert magnitudes.prod(-1).max() <= 1 + 1e-9


def _mean(a: torch.Tensor) -> torch.Tensor:
    return torch.linalg.svdvals(a.double()).pow(32).mean(-1) ** (1 / 32)


@pytest.mark.parametrize("bias", [0.0, 1e4, 1e12, 1e30])
@pytest.mark.parametrize("dtype", [None, torch.float16, torch.bfloat16], ids=str)
def test_no_transition_is_lost_to_range(bias: float, dtype: torch.dtype | None) -> None:
    """Sixteenth powers leave float16 at 2 and float32 at 300: neither sees one."""
    layer = DenseRNN(16, 12)
    with torch.no_grad():
        layer.proj_transition.bias += bias * torch.randn(144)
    x = torch.randn(1, 40, 16)
    with torch.autocast("cpu", dtype, enabled=dtype is not None):
        y, _ = layer(x)
        transitions = layer.transition(x)
    means = _mean(transitions[0])
    if bias:
        torch.testing.assert_close(means, torch.ones_like(means), rtol=1e-5, atol=0)
    assert transitions.dtype == torch.float32 and (means > 0.5).all()
    y.float().square().sum().backward()
    assert all(p.grad.isfinite().all() for p in layer.parameters())


def test_the_zero_transition_has_a_gradient() -> None:
    layer = DenseRNN(6, 5)
    torch.nn.init.zeros_(layer.proj_transition.weight)
    torch.nn.init.zeros_(layer.proj_transition.bias)
    layer(torch.randn(2, 9, 6))[0].sum().backward()
    assert not layer.transition(torch.randn(1, 3, 6)).any()
    assert layer.proj_transition.weight.grad.isfinite().all() and layer.proj_transition.weight.grad.any()
