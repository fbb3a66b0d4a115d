"""`DenseRNN`: its equations and its bound on the transition."""

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
