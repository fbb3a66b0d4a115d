"""The Numba pass of the fixed-point Mamba beside the same pass in plain torch."""

import pytest
import torch

from seqmix.kernels.fixed_point.selective_scan import api as mamba_op
from seqmix.kernels.fixed_point.selective_scan import solvers as mamba_solvers
from seqmix.mixers import FixedPointMamba

ALL = ("mixing", "b", "c", "gate")
LAYERS = [
    {},
    {"rank": 1, "max_radius": 0.3},
    {"mixing": "dplr", "hidden_dependence": ("mixing", "c")},
    {"hidden_dependence": (), "max_radius": 0.3},
    {"d_state": 1, "expand": 1, "hidden_dependence": ("b",)},
]


def build(dtype=torch.float64, d_state=3, **kwargs):
    torch.manual_seed(0)
    layer = FixedPointMamba(6, d_state, dtype=dtype, **{"solver": "sequential", **kwargs})
    with torch.no_grad():  # what is one or zero at first hides mistakes
        layer.norm_weight.add_(0.3 * torch.randn_like(layer.norm_weight))
        layer.norm_bias.add_(0.3 * torch.randn_like(layer.norm_weight))
        layer.D.add_(0.3 * torch.randn_like(layer.D))
    return layer


def random(*shape, seed=1, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def start(layer, sequences):
    """A state with gradients."""
    zero = layer.init_state(sequences)
    leaves = (random(*t.shape, seed=2, dtype=t.dtype).requires_grad_() for t in (zero.ssm, zero.y))
    return zero._replace(**dict(zip(("ssm", "y"), leaves, strict=True)))


def everything(layer, x, state, cu_seqlens=None):
    """Outputs, final states, gradients of all of them, and the report."""
    x = x.clone().requires_grad_()
    y, final = layer(x, state, cu_seqlens=cu_seqlens)
    loss = (y * torch.arange(y.numel(), dtype=y.dtype).view_as(y).cos()).sum() + final.ssm.sin().sum()
    leaves = [x, state.ssm, state.y, *(p for p in layer.parameters() if p.numel())]
    gradients = torch.autograd.grad(loss + final.y.sin().sum(), leaves, allow_unused=True, materialize_grads=True)
    return [y, final.ssm, final.y, *gradients], layer.last_solve


@pytest.fixture
def in_torch(monkeypatch):
    """Calls a function without the kernels."""

    def call(function, *args):
        with monkeypatch.context() as patch:
            for module in (mamba_solvers, mamba_op):
                patch.setattr(module, "compiled", lambda *_: False)
            return function(*args)

    return call


def assert_alike(found, expected, tolerance):
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.isfinite().all()
        assert (a - b).abs().max() <= tolerance * b.abs().max().clamp_min(1e-3)


@pytest.mark.parametrize("offsets", [None, [0, 7, 7, 8, 40]], ids=["whole", "packed"])
@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_equals_the_pass_in_torch(arguments, offsets, in_torch):
    """Outputs, states, gradients and the report, from a state; one of the packed sequences is empty."""
    layer = build(**arguments)
    assert mamba_solvers.compiled(layer.cell, torch.device("cpu"))
    packed = None if offsets is None else torch.tensor(offsets, dtype=torch.int32)
    x, state = random(3 if packed is None else 1, 40, 6), start(layer, 3 if packed is None else 4)
    found, report = everything(layer, x, state, packed)
    expected, report_of_torch = in_torch(everything, layer, x, state, packed)
    assert_alike(found, expected, 1e-9)
    assert report[:, 2:].equal(report_of_torch[:, 2:]) and report[:, 1].max() < 1e-12


@pytest.mark.parametrize("arguments", LAYERS, ids=str)
def test_float32(arguments, in_torch):
    """Against the float64 pass: within 1e-4, or where float32 itself is worse, within 3 times the error of torch."""
    arguments = {**arguments, "max_radius": 0.3}
    layer = build(torch.float32, **arguments)
    x, state = random(3, 60, 6, dtype=torch.float32), start(layer, 3)
    found, report = everything(layer, x, state)
    assert report[:, 2].all() and all(t.dtype == torch.float32 for t in found)
    double = build(**arguments)
    double.load_state_dict({name: p.double() for name, p in layer.state_dict().items()})
    wide = state._replace(**{n: getattr(state, n).detach().double().requires_grad_() for n in ("ssm", "y")})
    expected, _ = everything(double, x.double(), wide)
    in_float32, _ = in_torch(everything, layer, x, state)
    for a, b, c in zip(found, expected, in_float32, strict=True):
        allowed = torch.maximum(1e-4 * b.abs().max().clamp_min(1e-3), 3 * (c - b).abs().max())
        assert a.isfinite().all() and (a - b).abs().max() <= allowed


@pytest.mark.parametrize("mixing", ["householder", "dplr"])
def test_tokens_where_sweeps_diverge(mixing, in_torch):
    """A strong mixing: the branch, its residual and its gradients are those of the pass in torch."""
    layer = build(mixing=mixing, max_iterations=1000)
    with torch.no_grad():
        layer.mixing_proj.bias[-2:] = 3
        layer.mixing_proj.weight.mul_(4)
    x, state = random(6, 32, 6), start(layer, 6)
    found, report = everything(layer, x, state)
    expected, _ = in_torch(everything, layer, x, state)
    assert report[:, 2].all() and report[:, 1].max() < 1e-8
    assert_alike(found[:3], expected[:3], 1e-8)
    assert_alike(found[3:], expected[3:], 1e-6)
    layer.solver = "sweeps"
    swept = layer(x, state)[0]
    chosen = layer.last_solve[:, 3].bool()
    assert chosen.any()
    torch.testing.assert_close(swept[chosen], found[0][chosen], rtol=1e-7, atol=1e-9)


def test_a_strong_mixing_is_solved_alone_as_in_company(monkeypatch):
    """Beside a pole regula falsi stalls; how long others take must not decide whether a root is found."""
    monkeypatch.setattr("seqmix.kernels.fixed_point.selective_scan.solvers._HAS_NUMBA", False)
    layer = build(mixing="dplr", max_iterations=1000)
    with torch.no_grad():
        layer.mixing_proj.bias[-2:] = 3
        layer.mixing_proj.weight.mul_(4)
    x, state = random(6, 32, 6), start(layer, 6)
    together, _ = layer(x, state)
    for i in range(6):
        alone, _ = layer(x[i : i + 1], state.select(torch.tensor([i])))
        assert layer.last_solve[0, 2] and layer.last_solve[0, 1] < 1e-12
        torch.testing.assert_close(alone[0], together[i], rtol=1e-9, atol=1e-10)


def test_a_sequence_is_solved_for_itself():
    """Neither company nor threads change an answer; a NaN stays in its sequence and is reported.

    Up to rounding: with two threads the projections' products are cut elsewhere on some processors.
    """
    layer = build(d_state=16, expand=8)
    x, threads = random(5, 64, 6), torch.get_num_threads()
    y, _ = layer(x)
    try:
        torch.set_num_threads(2)
        torch.testing.assert_close(layer(x)[0], y, rtol=1e-12, atol=1e-13)
    finally:
        torch.set_num_threads(threads)
    x[2, 5] = torch.nan
    spoilt, _ = layer(x)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(spoilt[others], y[others], rtol=1e-12, atol=1e-13)
    assert spoilt[2, 5:].isnan().all() and spoilt[2, :5].isfinite().all()
    assert layer.last_solve[:, 2].tolist() == [1, 1, 0, 1, 1] and layer.last_solve[2, 1].isinf()


def test_a_cap_and_a_tolerance_mean_what_they_say():
    layer, x = build(tolerance=1e-3), random(2, 20, 6)
    layer(x)
    loose = layer.last_solve[:, 0].max()
    layer.options = layer.options._replace(tolerance=None, max_iterations=None)
    layer(x)
    assert layer.last_solve[:, 2].all() and layer.last_solve[:, 0].max() > loose > 1
    layer.options = layer.options._replace(max_iterations=2)
    layer(x)
    assert (layer.last_solve[:, 0] == 2).all() and not layer.last_solve[:, 2].any()


def test_auto_is_sequential_on_a_cpu():
    x = random(2, 20, 6)
    for arguments in ({}, {"max_radius": 0.3}, {"rank": 3}, {"mixing": "kronecker"}):
        layer = build(solver="auto", **arguments)
        layer(x)
        assert layer.last_solve[:, 3].all(), arguments
