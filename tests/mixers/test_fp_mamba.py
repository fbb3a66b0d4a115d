"""`FixedPointMamba`: its equations hold at what it returns, however that was found, and decode is the same layer."""

import pytest
import torch
from torch.nn.functional import layer_norm, silu, softplus

from seqmix.kernels import selective_scan
from seqmix.mixers import FixedPointMamba, Mamba

MIXINGS = [("householder", 1), ("householder", 3), ("dplr", 2), ("kronecker", 1)]
FIRST = {"d_conv": 1, "mixing_input": "x", "norm_bias": False, "initial_strength": 0.12}  # as the layer was at first
FORMS = [(*mixing, {}) for mixing in MIXINGS]
FORMS += [("householder", 2, FIRST), ("kronecker", 1, FIRST), ("kronecker-released", 1, {}), ("dplr", 1, {"d_conv": 1})]
ALL = ("mixing", "b", "c", "gate")


def build(mixing="householder", rank=2, hidden=ALL, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    layer = FixedPointMamba(6, 3, mixing, rank, hidden_dependence=hidden, dtype=dtype, **kwargs)
    if layer.norm_bias is not None:
        with torch.no_grad():  # what is zero at first hides mistakes
            layer.norm_bias.normal_(std=0.3)
    return layer


def bound(mixing, strength):
    """A mixing as weak as that."""
    return {"strength": strength} if mixing == "kronecker-released" else {"max_radius": strength}


def tokens(layer, x):
    """u, z, dt, and the numbers of b, c and the mixing, from the weights; a convolution sees one token."""
    u, z = (x @ layer.in_proj.weight.T).chunk(2, -1)
    if layer.conv1d is not None:
        u = silu(u * layer.conv1d.weight.flatten() + layer.conv1d.bias)
    r, bc = (u @ layer.x_proj.weight.T).split((layer.dt_rank, 6), -1)
    dt = softplus(r @ layer.dt_proj.weight.T + layer.dt_proj.bias)
    seen = u if layer.mixing_input == "u" else x
    return u, z, dt, torch.cat((bc, seen @ layer.mixing_proj.weight.T + layer.mixing_proj.bias), -1)


def normed(layer, o):
    return layer_norm(o, o.shape[-1:], layer.norm_weight, layer.norm_bias, eps=1e-5)


def inputs(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


def unrolled(layer, x, state, iterations):
    """The paper's iteration of each token, written out and left to autograd; K from dense matrices."""
    u, z, dt, p = tokens(layer, x)
    _, s, before = state
    outputs = []
    for t in range(x.shape[1]):
        g = layer.cell.gates(p[:, t], layer.weight_hidden, before)
        k, y = layer.cell.mixing.dense(g.factors), torch.zeros_like(before)
        for _ in range(iterations):
            mixed = u[:, t] + (k @ (y - u[:, t])[..., None]).squeeze(-1)
            decay = torch.exp(-dt[:, t, :, None] * layer.A_log.exp())
            new = decay * s + torch.einsum("bd,bn->bdn", dt[:, t] * mixed, g.b)
            o = torch.einsum("bdn,bn->bd", new, g.c) + layer.D * mixed
            y = normed(layer, o)
        gate = z[:, t] + (before @ layer.weight_gate.T if layer.weight_gate is not None else 0)
        s, before = new, y
        outputs.append((y * silu(gate)) @ layer.out_proj.weight.T)
    return torch.stack(outputs, 1), s, before


def random_state(layer, sequences):
    ssm, y = torch.randn(sequences, 12, 3, dtype=torch.float64), torch.randn(sequences, 12, dtype=torch.float64)
    return layer.init_state(sequences)._replace(ssm=ssm.requires_grad_(), y=y.requires_grad_())


@pytest.mark.sample
@pytest.mark.parametrize("solver", ["sequential", "sweeps"])
@pytest.mark.parametrize("hidden", [(), ("b", "gate"), ALL], ids=str)
@pytest.mark.parametrize("mixing, rank, options", FORMS, ids=str)
def test_equals_the_unrolled_iteration(mixing, rank, options, hidden, solver):
    """Outputs, states and gradients."""
    layer = build(mixing, rank, hidden, solver=solver, **bound(mixing, 0.2), **options)
    x, state = inputs(2, 12).requires_grad_(), random_state(layer, 2)
    sources = [x, state.ssm, state.y, *layer.parameters()]

    def measure(y, s, last):
        loss = (y * torch.arange(y.numel()).view_as(y).cos()).sum() + s.sin().sum() + last.sin().sum()
        return [y, s, last, *torch.autograd.grad(loss, sources, allow_unused=True, materialize_grads=True)]

    y, final = layer(x, state)
    assert layer.last_solve[:, 2].all()
    found, expected = measure(y, final.ssm, final.y), measure(*unrolled(layer, x, state, 120))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-8), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("mixing, rank", MIXINGS)
def test_sweeps_agree_with_the_sequential_mode(mixing, rank, dtype, tolerance):
    """T = 128, wherever the sweep contracts."""
    layer = build(mixing, rank, dtype=dtype, max_radius=0.2, max_iterations=1000)
    x = inputs(3, 128, dtype=dtype)
    results = []
    for layer.solver in ("sequential", "sweeps"):
        results.append(layer(x))
        assert layer.last_solve[:, 2].all()
    (a, final_a), (b, final_b) = results
    assert layer.last_solve[:, 3].tolist() == [0, 0, 0]
    assert relative(a, b) < tolerance
    for leaf_a, leaf_b in zip(final_a[1:], final_b[1:], strict=True):
        assert relative(leaf_a, leaf_b) < tolerance


@pytest.mark.sample(2)
@pytest.mark.parametrize("mixing, rank", MIXINGS)
@pytest.mark.parametrize("alpha", [0.0, 3.0])
def test_full_strength(mixing, rank, alpha):
    """Every token has a solution; sweeps that circle, or end on another one of several, are reported and solved."""
    layer = build(mixing, rank, max_iterations=1000)
    with torch.no_grad():
        layer.mixing_proj.bias[-4:] = alpha
        layer.mixing_proj.weight.mul_(1 + alpha)
    x = inputs(6, 32)
    report = layer.diagnostics(x)
    assert report["converged"].all() and report["sequential"].all()
    assert report["residual"].max() < 1e-8
    expected, _ = layer(x)
    layer.solver = "sweeps"
    swept = layer.diagnostics(x)
    assert swept["sequential"].any()
    sure = swept["converged"]
    assert sure[swept["sequential"]].all() and sure.sum() >= 4
    torch.testing.assert_close(layer(x)[0][sure], expected[sure], rtol=1e-8, atol=1e-9)
    layer.options = layer.options._replace(fallback=False)
    kept = layer.diagnostics(x)
    assert not kept["sequential"].any() and not kept["converged"].all()


def test_phantom_gradient_is_that_of_one_application():
    layer = build(hidden=("mixing", "b", "c"), gradient="phantom", max_radius=0.3)
    x = inputs(2, 9).requires_grad_()
    upstream = torch.randn(2, 9, 6, dtype=torch.float64)
    out, _ = layer(x)
    (found,) = torch.autograd.grad(out, x, upstream)

    with torch.no_grad():
        star = layer.solve(x, layer.init_state(2), None)[0]
    u, z, dt, p = tokens(layer, x)
    before = torch.cat((torch.zeros_like(star[:, :1]), star[:, :-1]), 1)
    g = layer.cell.gates(p, layer.weight_hidden, before)
    o, _ = selective_scan(layer.cell.mixed(g, u, star), dt, -layer.A_log.exp(), g.b, g.c, layer.D)
    y = normed(layer, o)
    again = (y * silu(z)) @ layer.out_proj.weight.T
    torch.testing.assert_close(again, out)
    (expected,) = torch.autograd.grad(again, x, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("solver", ["auto", "sweeps"])
@pytest.mark.parametrize("d_conv", [None, 4])
def test_decode_equals_the_whole(solver, d_conv):
    layer = build(solver=solver, d_conv=d_conv, max_radius=0.3)
    x = inputs(2, 30)
    y, final = layer(x)
    state, steps = layer.init_state(2), []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        steps.append(y_t)
    torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-9, atol=1e-11)
    for a, b in zip(state, final, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_without_mixing_it_is_a_normalised_selective_scan():
    layer = build(hidden=())
    with torch.no_grad():
        layer.mixing_proj.weight.zero_()
        layer.mixing_proj.bias[-2:] = -1000
    x = inputs(2, 20)
    u, z, *_ = tokens(layer, x)
    dt, A, B, C = layer.selection(u)
    B, C = (m * (m.square().sum(-1, keepdim=True) + 1e-5).rsqrt() for m in (B, C))
    y, state = selective_scan(u, dt, A, B, C, layer.D)
    expected = (normed(layer, y) * silu(z)) @ layer.out_proj.weight.T
    found, final = layer(x)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(final.ssm, state)


def test_names_of_mamba_are_kept():
    mamba, layer = Mamba(8, d_conv=4), FixedPointMamba(8, d_conv=4)
    own = {name: p.shape for name, p in layer.state_dict().items()}
    assert {name: p.shape for name, p in mamba.state_dict().items()}.items() <= own.items()
    assert set(layer._no_weight_decay) == {"A_log", "D", "norm_weight", "norm_bias"}
    assert FixedPointMamba(8).conv1d is None


def test_strength_at_first():
    """The released 2 sigmoid(0) = 1; what was first here, 2 sigmoid(-2)."""
    for options, expected in (({}, 1.0), ({"strength": 1.0}, 0.5), ({"initial_strength": 0.1192029}, 0.2384058)):
        layer = build(**options)
        pre = torch.zeros(layer.cell.mixing.size, dtype=torch.float64) + layer.mixing_proj.bias
        alpha = layer.cell.mixing.factors(pre).alpha
        torch.testing.assert_close(alpha, torch.full_like(alpha, expected), rtol=1e-6, atol=0)


def test_a_cap_and_a_tolerance_mean_what_they_say():
    layer = build(max_radius=0.3, solver="sweeps")
    x = inputs(3, 40)
    for cap in (1, 2, 4):
        layer.options = layer.options._replace(max_iterations=cap)
        report = layer.diagnostics(x)
        assert report["iterations"].tolist() == [cap] * 3
        assert not report["converged"].any()
    for tolerance in (1e-2, 1e-6):
        layer.options = layer.options._replace(max_iterations=1000, tolerance=tolerance)
        layer(x)
        assert layer.last_solve[:, 2].all() and layer.last_solve[:, 1].max() <= tolerance
        assert not layer.last_solve.requires_grad


def test_every_option_changes_the_result():
    x = inputs(2, 20)
    changes = [{}, {"mixing": "dplr"}, {"mixing": "kronecker"}, {"rank": 1}, {"max_radius": 0.3}, {"d_conv": 4}]
    changes += [{"mixing": "kronecker-released"}, {"d_conv": 1}, {"mixing_input": "x"}, {"norm_bias": False}]
    changes += [{"strength": 1.0}, {"initial_strength": 0.1}]
    changes += [{"hidden": tuple(part for part in ALL if part != out)} for out in ALL]
    sweeps = {"solver": "sweeps", "fallback": False, "max_radius": 0.3}
    changes += [{**sweeps, "max_iterations": 2}, {**sweeps, "max_iterations": 2, "damping": 0.5}]
    changes += [{**sweeps, "tolerance": 0.1}, {"dt_min": 0.05}, {"expand": 3}, {"dt_rank": 2}]
    results = [build(**change)(x)[0] for change in changes]
    for i, a in enumerate(results):
        for j, b in enumerate(results[:i]):
            assert not torch.allclose(a, b, rtol=1e-6, atol=1e-9), f"{changes[i]} and {changes[j]}"
    gradients = []
    for gradient in ("implicit", "phantom"):
        y, _ = build(gradient=gradient)(x.requires_grad_())
        gradients.append(torch.autograd.grad(y.square().sum(), x)[0])
    assert not torch.allclose(*gradients, rtol=1e-3)


def test_bad_arguments():
    for kwargs, match in (
        ({"d_state": 0}, "d_state must be a positive integer"),
        ({"rank": 0}, "rank must be a positive integer"),
        ({"rank": 17}, "rank must be at most d_inner = 16, got 17"),
        ({"mixing": "monarch"}, "mixing must be one of .*'kronecker', 'kronecker-released', got 'monarch'"),
        ({"mixing": "kronecker-released", "max_radius": 0.3}, "max_radius must be None with mixing 'kronecker-r"),
        ({"strength": 0}, r"strength must be in \(0, 2\], got 0"),
        ({"initial_strength": 1}, r"initial_strength must be in \(0, 1\), got 1"),
        ({"mixing_input": "y"}, "mixing_input must be one of 'u', 'x', got 'y'"),
        ({"norm_bias": None}, "norm_bias must be one of True, False, got None"),
        ({"solver": "direct"}, "solver must be one of 'auto', 'sweeps', 'sequential', got 'direct'"),
        ({"hidden_dependence": ("lambda",)}, "hidden_dependence must be names among 'mixing', 'b', 'c', 'gate'"),
        ({"tolerance": 0, "max_iterations": None}, "tolerance must be above 0 where max_iterations is None"),
        ({"max_iterations": -1}, "max_iterations must be a positive integer"),
        ({"damping": 2}, r"damping must be in \(0, 1\]"),
        ({"gradient": "none"}, "gradient must be one of 'implicit', 'phantom'"),
        ({"max_radius": 0}, r"max_radius must be None or in \(0, 1\)"),
        ({"dt_min": 0.2}, "0 < dt_min <= dt_max"),
    ):
        with pytest.raises(ValueError, match=match):
            FixedPointMamba(8, **kwargs)


def test_op_registration():
    layer = build(max_radius=0.3)
    u, dt = torch.randn(1, 9, 12, dtype=torch.float64), torch.rand(1, 9, 12, dtype=torch.float64)
    p = torch.randn(1, 9, layer.cell.size, dtype=torch.float64)
    norm = torch.stack((layer.norm_weight, layer.norm_bias))
    weights = (-layer.A_log.exp(), layer.D, layer.weight_hidden, norm)
    states = (torch.randn(2, 12, 3, dtype=torch.float64), torch.randn(2, 12, dtype=torch.float64))
    leaves = [t.detach().clone().requires_grad_() for t in (u, dt, p, *weights, *states)]
    options = ("householder", 2, 0.15, layer.hidden_gates, "sequential", 1e-12, 100, 1.0, True, "implicit")
    torch.library.opcheck(
        torch.ops.seqmix.fixed_point_selective_scan.default, (*leaves, torch.tensor([0, 3, 9]).int(), *options)
    )
