"""KDA, Gated DeltaNet-2 and RWKV-7: limits in which they are other layers, spectra, and published initial values."""

import numpy as np
import pytest
import torch

from seqmix import KDA, RWKV7, DeltaNet, GatedDeltaNet, GatedDeltaNet2, create_mixer
from seqmix.inspect import eigenvalues

NAMES = ("kda", "gated-deltanet-2", "rwkv-7")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["positive", "signed"])
def test_eigenvalues_are_those_of_the_matrix_and_bounded(name, kind):
    torch.manual_seed(0)
    layer = create_mixer(name, 16, eigenvalues=kind, dtype=torch.float64)
    for parameter in layer.parameters():  # gates from their initial values to saturation
        parameter.data.mul_(3).add_(torch.randn_like(parameter))
    x = 3 * torch.randn(2, 40, 16, dtype=torch.float64)
    found = layer.diagnostics(x)["eigenvalues"]
    exact = eigenvalues(layer, x)
    torch.testing.assert_close(found.flatten(2).sort(-1).values, exact.real.sort(-1).values, rtol=0, atol=1e-6)
    least = {"signed": -1.0, "positive": -0.4549 if name == "rwkv-7" else 0.0}[kind]
    assert found.min() >= least - 1e-9 and found.max() <= 1 + 1e-9
    if kind == "signed":
        assert found.min() < -0.6


def test_equal_gates_make_gated_deltanet_2_kda():
    torch.manual_seed(0)
    kda, other = KDA(16, dtype=torch.float64), GatedDeltaNet2(16, dtype=torch.float64)
    beta = kda.beta_proj.weight
    weights = {"erase_proj.weight": beta.repeat_interleave(4, 0), "write_proj.weight": beta.repeat_interleave(4, 0)}
    shared = {name: tensor for name, tensor in kda.state_dict().items() if not name.startswith("beta")}
    other.load_state_dict(shared | weights)
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(other(x)[0], kda(x)[0], rtol=1e-9, atol=1e-12)


def test_one_decay_for_each_head_makes_kda_gated_deltanet():
    """Where all keys of a head decay alike KDA is the gated delta rule; the two gate what they read differently."""
    torch.manual_seed(0)
    kda, other = KDA(16, dtype=torch.float64), GatedDeltaNet(16, output_gate=False, dtype=torch.float64)
    with torch.no_grad():
        for parameter in (kda.decay_up.weight, kda.gate_up.weight, kda.gate_up.bias, other.decay_proj.weight):
            parameter.zero_()
        kda.dt_bias.copy_(other.dt_bias.repeat_interleave(4))
        kda.A_log.copy_(other.A_log)
        kda.out_proj.weight.copy_(2 * other.out_proj.weight)  # the gate is sigmoid(0)
        for name in ("in_proj.weight", "conv_weight", "beta_proj.weight", "norm_weight"):
            kda.get_parameter(name).copy_(other.get_parameter(name))
    x = torch.randn(2, 9, 16, dtype=torch.float64)
    torch.testing.assert_close(other(x)[0], kda(x)[0], rtol=1e-9, atol=1e-12)


def test_presets_are_deltanet_with_options():
    torch.manual_seed(0)
    preset = create_mixer("deltaproduct", 16, dtype=torch.float64)
    plain = DeltaNet(16, n_householder=2, eigenvalues="signed", dtype=torch.float64)
    plain.load_state_dict(preset.state_dict())
    x = torch.randn(1, 5, 16, dtype=torch.float64)
    assert torch.equal(preset(x)[0], plain(x)[0])


def test_rwkv7_starts_with_the_published_decays():
    layer = RWKV7(256, n_heads=4)
    rule, _ = layer._rule_from_nothing(torch.randn(1, 3, 256))
    decay = rule.log_w.exp()
    assert decay.min().item() == pytest.approx(0.561, abs=2e-3) and decay.max().item() == pytest.approx(
        0.9998, abs=1e-3
    )
    # Channel by channel, with the exponent of a last layer.
    n = np.arange(256)
    within = (n % 64 - 31.5) / 31.5
    expected = -6 + 6 * (n / 255) ** 2 + 0.5 + 2.5 * np.sign(within) * within**2
    np.testing.assert_allclose(layer.w_up.bias.detach().numpy(), expected, atol=1e-5)


def test_kda_starts_with_the_published_decays():
    torch.manual_seed(0)
    decay = KDA(512, n_heads=32).log_decay(torch.randn(8, 32, 512)).exp().flatten()
    quantiles = torch.quantile(decay, torch.tensor([0.05, 0.5, 0.95]))
    torch.testing.assert_close(quantiles, torch.tensor([0.46, 0.93, 0.994]), rtol=0, atol=0.08)
