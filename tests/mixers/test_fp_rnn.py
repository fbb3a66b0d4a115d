"""`FixedPointRNN`: every way of solving it gives the dense recurrence, where sweeps diverge as well."""

import pytest
import torch

from seqmix.kernels.fixed_point.kronecker import Kronecker
from seqmix.kernels.fixed_point.kronecker_released import ReleasedKronecker
from seqmix.kernels.fixed_point.low_rank import LowRank
from seqmix.mixers import FixedPointRNN

MIXINGS = [("householder", 0), ("householder", 1), ("householder", 3), ("dplr", 2), ("kronecker", 1)]
MIXINGS += [("kronecker-released", 1)]
ALL = ("lambda", "mixing", "b", "c")
TOLERANCE = {torch.float64: 1e-8, torch.float32: 1e-4}


def build(mixing="householder", rank=2, hidden=ALL, dtype=torch.float64, width=6, **kwargs):
    torch.manual_seed(0)
    return FixedPointRNN(8, width, mixing, rank, hidden_dependence=hidden, dtype=dtype, **kwargs)


def bound(mixing, radius):
    """Options under which sweeps contract, by a bound where the mixing has one."""
    return {"strength": 0.25} if mixing == "kronecker-released" else {"max_radius": radius}


def dense_recurrence(layer, x, h):
    """h_t = M_t^-1 (Lambda_t h_{t-1} + (I - Lambda_t) Q_t e_t), as written, from dense matrices: differentiable."""
    n, states = layer.d_state, []
    p = layer.proj_in(x)[..., : layer.cell.size]
    eye = torch.eye(n, dtype=h.dtype)
    for p_t in p.unbind(1):
        g = layer.cell.gates(p_t, layer.weight_hidden, h)
        q = eye - layer.cell.mixing.dense(g.factors)
        lam = torch.diag_embed(g.decay)
        m = lam + (eye - lam) @ q
        source = lam @ h[..., None] + (eye - lam) @ q @ g.e[..., None]
        h = torch.linalg.solve(m, source).squeeze(-1)
        states.append(h)
    return torch.stack(states, 1)


def scan(layer, x, h0, solver):
    p = layer.proj_in(x)[..., : layer.cell.size]
    return layer.scan(p, h0, None, solver)


def solvers(layer):
    return ("sequential", "sweeps") if layer.hidden_gates else ("sequential", "sweeps", "direct")


def relative(a, b):
    return ((a - b).abs().max() / b.abs().max()).item()


FORMS = [((), "b*v", True), (("b",), "b", True), (ALL, "b*v", True), (ALL, "b", False), (("mixing",), "b*v", False)]


@pytest.mark.sample(8)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("hidden, write, normed", FORMS, ids=str)
@pytest.mark.parametrize("mixing, rank", MIXINGS)
def test_solvers_agree_with_the_dense_recurrence(mixing, rank, hidden, write, normed, dtype):
    """T = 128 and a spectral radius up to .95."""
    options = {"write": write, "normalize_hidden": normed}
    layer = build(mixing, rank, hidden, dtype, **bound(mixing, 0.95), max_iterations=2000, **options)
    with torch.no_grad():
        layer.proj_in.bias[:6] -= 3  # small lambda, and alpha near its bound: slow sweeps
        layer.proj_in.bias[layer.cell.at_mixing : layer.cell.size] += 3
    x, h0 = torch.randn(3, 128, 8, dtype=dtype), torch.randn(3, 6, dtype=dtype)
    expected = dense_recurrence(layer.double(), x.double(), h0.double())
    layer.to(dtype)
    for solver in solvers(layer):
        h, final, report = scan(layer, x, h0, solver)
        assert relative(h, expected) < TOLERANCE[dtype], solver
        torch.testing.assert_close(final, h[:, -1])
        assert report[:, 2].all()
    assert layer.diagnostics(x)["radius"].max() < 0.95


@pytest.mark.parametrize("hidden, write, normed", FORMS, ids=str)
@pytest.mark.parametrize("mixing, rank", MIXINGS)
def test_implicit_gradient_is_that_of_unrolled_autograd(mixing, rank, hidden, write, normed):
    options = {"write": write, "normalize_hidden": normed}
    layer = build(mixing, rank, hidden, **bound(mixing, 0.9), max_iterations=2000, **options)
    x = torch.randn(2, 17, 8, dtype=torch.float64, requires_grad=True)
    h0 = torch.randn(2, 6, dtype=torch.float64, requires_grad=True)
    upstream = torch.randn(2, 17, 6, dtype=torch.float64)
    sources = [x, h0, layer.proj_in.weight, layer.weight_hidden]

    def gradients(h):
        return torch.autograd.grad(h, sources, upstream, allow_unused=True, materialize_grads=True)

    expected = gradients(dense_recurrence(layer, x, h0))
    for solver in solvers(layer):
        for found, reference in zip(gradients(scan(layer, x, h0, solver)[0]), expected, strict=True):
            torch.testing.assert_close(found, reference, rtol=1e-8, atol=1e-9, msg=lambda m, s=solver: f"{s}: {m}")


@pytest.mark.parametrize("hidden", [(), ALL], ids=str)
@pytest.mark.parametrize("mixing, rank", MIXINGS)
def test_phantom_gradient_is_that_of_one_application(mixing, rank, hidden):
    """The scan of one more sweep, its gates and targets formed from the detached fixed point."""
    layer = build(mixing, rank, hidden, **bound(mixing, 0.9), gradient="phantom")
    x, h0 = torch.randn(2, 17, 8, dtype=torch.float64, requires_grad=True), torch.randn(2, 6, dtype=torch.float64)
    h0.requires_grad_()
    upstream = torch.randn(2, 17, 6, dtype=torch.float64)
    h, _, _ = scan(layer, x, h0, "sequential")
    sources = [x, h0, layer.weight_hidden]
    found = torch.autograd.grad(h, sources, upstream, allow_unused=True, materialize_grads=True)

    star = h.detach()
    before = torch.cat((h0.detach()[:, None], star[:, :-1]), 1)
    g = layer.cell.gates(layer.proj_in(x)[..., : layer.cell.size], layer.weight_hidden, before)
    state, states = h0, []
    for t in range(17):
        state = g.decay[:, t] * state + g.write[:, t] * layer.cell.target(g, star)[:, t]
        states.append(state)
    torch.testing.assert_close(torch.stack(states, 1), h)
    expected = torch.autograd.grad(torch.stack(states, 1), sources, upstream, allow_unused=True, materialize_grads=True)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)


def diverging(**kwargs):
    """Some sequences have a token whose radius is above one: tokens of the first feature open alpha wide."""
    layer = build("householder", 2, max_iterations=300, strength=2.0, **kwargs)
    with torch.no_grad():
        layer.proj_in.weight[layer.cell.at_mixing : layer.cell.size] *= 0.1
        layer.proj_in.weight[layer.cell.size - 2 : layer.cell.size, 0] = 4
        layer.proj_in.bias[layer.cell.size - 2 : layer.cell.size] = -3
        layer.proj_in.bias[:6] = -2
    x = 0.3 * torch.randn(4, 32, 8, dtype=torch.float64)
    x[..., 0] = 0
    x[1, 7, 0] = x[3, 20, 0] = 2.0
    return layer, x


def test_sequences_that_diverge_are_reported_and_solved():
    layer, x = diverging()
    h0 = torch.zeros(4, 6, dtype=torch.float64)
    expected = dense_recurrence(layer, x, h0)
    h, _, report = scan(layer, x, h0, "sweeps")
    assert relative(h, expected) < 1e-8
    assert report[:, 3].tolist() == [0, 1, 0, 1]
    assert report[:, 2].all()
    radius = layer.diagnostics(x)["radius"].amax(1)
    assert ((radius >= 1) == report[:, 3].bool()).all()
    # The gradient too.
    x.requires_grad_()
    upstream = torch.randn(4, 32, 6, dtype=torch.float64)
    found, expected = (
        torch.autograd.grad(h, x, upstream)[0]
        for h in (scan(layer, x, h0, "sweeps")[0], dense_recurrence(layer, x, h0))
    )
    torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-9)


def test_without_the_fallback_divergence_is_only_reported():
    layer, x = diverging(fallback=False, solver="sweeps")
    report = layer.diagnostics(x)
    assert report["converged"].tolist() == [True, False, True, False]
    assert not report["sequential"].any()


def test_without_a_cap_divergence_is_noticed_too():
    layer, x = diverging()
    layer.options = layer.options._replace(max_iterations=None)
    h, _, report = scan(layer, x, torch.zeros(4, 6, dtype=torch.float64), "sweeps")
    assert report[:, 3].tolist() == [0, 1, 0, 1]
    assert relative(h, dense_recurrence(layer, x, torch.zeros(4, 6, dtype=torch.float64))) < 1e-8


def test_a_cap_and_a_tolerance_mean_what_they_say():
    layer = build(max_radius=0.9, solver="sweeps")
    x = torch.randn(3, 40, 8, dtype=torch.float64)
    errors = []
    for cap in (1, 2, 4, 8, 16):
        layer.options = layer.options._replace(max_iterations=cap)
        report = layer.diagnostics(x)
        assert report["iterations"].tolist() == [cap] * 3
        assert not report["converged"].any() and not report["sequential"].any()
        errors.append(report["residual"].max().item())
    assert errors == sorted(errors, reverse=True)
    for tolerance in (1e-2, 1e-4, 1e-8):
        layer.options = layer.options._replace(max_iterations=1000, tolerance=tolerance)
        layer(x)
        iterations, residual, converged, _ = layer.last_solve.unbind(1)
        assert converged.all() and (residual <= tolerance).all() and (iterations < 1000).all()
        assert not layer.last_solve.requires_grad


def test_a_converged_sequence_costs_nothing_more():
    """Sequences stop one by one, and alone each takes as many sweeps as in company."""
    layer = build(max_radius=0.9, solver="sweeps", tolerance=1e-6)
    x = torch.randn(4, 40, 8, dtype=torch.float64) * torch.tensor([0.01, 0.3, 1.0, 4.0])[:, None, None]
    together = layer.diagnostics(x)["iterations"].tolist()
    assert len(set(together)) > 1
    assert together == [layer.diagnostics(x[s : s + 1])["iterations"].item() for s in range(4)]


def test_damping_takes_longer_to_the_same_place():
    layer = build(max_radius=0.6, solver="sweeps")
    x = torch.randn(2, 30, 8, dtype=torch.float64)
    fast, y = layer.diagnostics(x)["iterations"], layer(x)[0]
    damped = build(max_radius=0.6, solver="sweeps", damping=0.5)
    assert (damped.diagnostics(x)["iterations"] > fast).all()
    torch.testing.assert_close(damped(x)[0], y, rtol=1e-9, atol=1e-11)


def test_every_option_changes_the_result():
    x = torch.randn(2, 20, 8, dtype=torch.float64)
    base = build()(x)[0]
    changes = [
        {"mixing": "dplr"},
        {"mixing": "kronecker"},
        {"mixing": "kronecker-released"},
        {"rank": 1},
        {"rank": 0},
        {"max_radius": 0.9},
        {"width": 4},
    ]
    changes += [{"hidden": tuple(part for part in ALL if part != out)} for out in ALL]
    sweeps = {"solver": "sweeps", "fallback": False}
    changes += [{**sweeps, "max_iterations": 2}, {**sweeps, "max_iterations": 2, "damping": 0.5}]
    changes += [{"hidden": ALL[:3], "output_gate": False}, {"write": "b"}, {"strength": 2.0}]
    changes += [{"normalize_hidden": False}]
    changes += [{**sweeps, "tolerance": 0.1, "max_radius": 0.5}, {"max_radius": 0.5}]
    results = [base, *(build(**change)(x)[0] for change in changes)]
    for i, a in enumerate(results):
        for j, b in enumerate(results[:i]):
            assert not torch.allclose(a, b, rtol=1e-6, atol=1e-9), f"{(changes[i - 1], j)}"
    gradients = []
    for gradient in ("implicit", "phantom"):
        y, _ = build(gradient=gradient)(x.requires_grad_())
        torch.testing.assert_close(y, base)
        gradients.append(torch.autograd.grad(y.square().sum(), x)[0])
    assert not torch.allclose(*gradients, rtol=1e-3)


@pytest.mark.parametrize("solver", ["sweeps", "sequential", "direct"])
def test_packed_equals_separate(solver):
    layer = build("householder", 2, ("c",) if solver == "direct" else ALL, solver=solver, max_radius=0.9)
    lengths = [5, 0, 1, 27, 16]
    x = torch.randn(1, sum(lengths), 8, dtype=torch.float64)
    state = layer.State(torch.randn(5, 6, dtype=torch.float64))
    y, final = layer(x, state, cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int())
    for s, part in enumerate(x.split(lengths, 1)):
        expected = state.select(s)
        if lengths[s]:
            y_s, expected = layer(part, expected)
            torch.testing.assert_close(y.split(lengths, 1)[s], y_s, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(final.h[s : s + 1], expected.h, rtol=1e-9, atol=1e-11)


def test_layers_of_every_solver_decode_to_the_same():
    for hidden, solver in (((), "direct"), (ALL, "sweeps"), (ALL, "auto")):
        layer = build("householder", 2, hidden, solver=solver, max_radius=0.9)
        x = torch.randn(2, 40, 8, dtype=torch.float64)
        y, _ = layer(x)
        state, steps = layer.init_state(2), []
        for x_t in x.unbind(1):
            y_t, state = layer.step(x_t, state)
            steps.append(y_t)
        torch.testing.assert_close(torch.stack(steps, 1), y, rtol=1e-9, atol=1e-11)


def test_without_output_gate_the_read_out_is_linear_in_the_direction_of_h():
    layer = build(hidden=("b",), output_gate=False)
    x = torch.randn(2, 9, 8, dtype=torch.float64)
    h = dense_recurrence(layer, x, torch.zeros(2, 6, dtype=torch.float64))
    expected = (h / (h.square().mean(-1, keepdim=True) + 1e-5).sqrt()) @ layer.proj_out.weight.T
    torch.testing.assert_close(layer(x)[0], expected)
    assert layer.proj_in.weight.shape == (layer.cell.size, 8)


@pytest.mark.sample(6)
@pytest.mark.parametrize("normed", [True, False])
@pytest.mark.parametrize("write", ["b*v", "b"])
@pytest.mark.parametrize("mixing, strength", [("householder", 1.0), ("householder", 2.0), ("dplr", 1.0)])
@pytest.mark.parametrize("hidden", [None, ("lambda", "b"), ALL], ids=str)
def test_a_layer_is_its_equations(hidden, mixing, strength, write, normed):
    """A loop over tokens and iterates, from the weights: each reflection, gate and norm as the file's head has them."""
    layer = build(mixing, 2, hidden, strength=strength, write=write, normalize_hidden=normed)
    with torch.no_grad():
        layer.proj_in.bias.normal_(std=0.1)
        layer.proj_in.bias[:6] += 1  # lambda large enough for a strength of two to contract
    assert layer.hidden_dependence == (hidden or ("mixing", "c"))
    n, x, silu, sigmoid = 6, torch.randn(1, 9, 8, dtype=torch.float64), torch.nn.functional.silu, torch.sigmoid
    names, sizes = ["lambda", "b", "v", "u", "alpha", "c", "z"], [n, n, n, 2 * n, 2, n, n]
    if write == "b":
        names.remove("v"), sizes.pop(2)
    weights = dict(zip(names, layer.proj_in.weight.split(sizes), strict=True))
    biases = dict(zip(names, layer.proj_in.bias.split(sizes), strict=True))
    seen = [name for name in names if ("mixing" if name in ("u", "alpha") else name) in layer.hidden_dependence]
    told = layer.weight_hidden if layer.weight_c is None else torch.cat((layer.weight_hidden, layer.weight_c))
    told = dict(zip(seen, told.split([len(weights[name]) for name in seen]), strict=True))
    h, outputs = torch.zeros(n, dtype=torch.float64), []
    for x_t in x[0]:
        s = h / (h.square().mean() + 0.0625).sqrt() if normed else h
        pre = {name: weights[name] @ x_t + biases[name] for name in names}
        for name in seen:
            pre[name] = pre[name] + told[name] @ s
        lam = sigmoid(pre["lambda"])
        e = silu(pre["b"]) * pre.get("v", 1)
        q = torch.eye(n, dtype=torch.float64)
        k = torch.zeros_like(q)
        for i in range(2):
            u = silu(pre["u"][i * n : (i + 1) * n])
            u = u / (u.square().sum() + 1e-6).sqrt()
            k_i = strength * sigmoid(pre["alpha"][i]) * torch.outer(u, u)
            q, k = q @ (torch.eye(n, dtype=torch.float64) - k_i), k + k_i
        q = q if mixing == "householder" else torch.eye(n, dtype=torch.float64) - k
        new = torch.zeros_like(h)
        for _ in range(2000):
            new = lam * h + (1 - lam) * (q @ e + new - q @ new)
        h = new
        y = silu(pre["z"]) * silu(pre["c"]) * h
        outputs.append(layer.proj_out.weight @ (layer.weight_norm * y / (y.square().mean() + 1e-5).sqrt()))
    torch.testing.assert_close(layer(x)[0][0], torch.stack(outputs), rtol=1e-8, atol=1e-9)


def test_the_default_mixes_with_a_norm_below_one():
    """|I - Q| < 1 for one reflection and for Kronecker factors, so sweeps contract and no eigenvalue is above one.

    With a strength of two most tokens have one above it; with two or more factors of a product a few can."""
    x = torch.randn(4, 50, 8, dtype=torch.float64)
    for mixing in ("householder", "dplr", "kronecker"):
        layer = build(mixing, 1, None, width=12)
        with torch.no_grad():
            layer.proj_in.bias[layer.cell.at_mixing : layer.cell.size] += 3
            layer.proj_in.bias[:12] -= 3
        said = layer.diagnostics(x)
        assert said["radius"].max() < 1 and said["eigenvalues"].abs().max() <= 1 + 1e-9
    first = build("householder", 2, None, width=24).diagnostics(x)
    assert (first["eigenvalues"].abs().amax(-1) < 1).all() and first["radius"].max() < 1
    twice = build("householder", 2, None, width=24, strength=2.0).diagnostics(x)
    assert (twice["eigenvalues"].abs().amax(-1) > 1).double().mean() > 0.5


def test_mixing_matrices_are_what_they_are_called():
    pre = torch.randn(5, 40, dtype=torch.float64)
    eye = torch.eye(6, dtype=torch.float64)
    for product in (True, False):
        mixing = LowRank(6, 3, 2.0, product)
        f = mixing.factors(pre[:, : mixing.size])
        parts = f.alpha[..., None, None] * f.u[..., :, None] * f.u[..., None, :]
        expected = sum(parts.unbind(1))
        if product:
            q = [eye - part for part in parts.unbind(1)]
            expected = eye - q[0] @ q[1] @ q[2]
        torch.testing.assert_close(mixing.dense(f), expected)
        torch.testing.assert_close(f.u.norm(dim=-1), torch.ones(5, 3, dtype=torch.float64), atol=1e-4, rtol=0)
    mixing = Kronecker(6, 2.0)
    f = mixing.factors(3 * pre[:, : mixing.size])
    k = mixing.dense(f)
    torch.testing.assert_close(k[0], torch.kron(f.k1[0], f.k2[0]))
    values = torch.linalg.eigvalsh(k)
    assert values.min() > -1e-12 and values.max() <= 2 + 1e-12


@pytest.mark.parametrize("spectral", [True, False])
def test_released_kronecker_factors_are_the_released_ones(spectral):
    """The code's steps, with a longer power iteration, and gradients by autograd through them."""
    mixing = ReleasedKronecker(6, 2.0, spectral)
    pre = torch.randn(4, mixing.size, dtype=torch.float64, requires_grad=True)
    w, e = torch.randn(2, 4, 6, dtype=torch.float64)

    def factor(numbers, gates, n):
        r = torch.zeros(4, n, n, dtype=torch.float64)
        row, column = torch.triu_indices(n, n)
        r[:, row, column] = torch.nn.functional.silu(numbers)
        f = torch.nn.functional.normalize(r @ r.mT, dim=-1, eps=1e-5)
        if spectral:
            v = torch.ones(4, n, dtype=torch.float64)
            for _ in range(400):
                v = torch.nn.functional.normalize((f @ v[..., None])[..., 0], dim=-1)
            f = f / ((v * (f @ v[..., None])[..., 0]).sum(-1)[:, None, None] + 1e-5)
        return torch.diag_embed(gates.sigmoid()) @ f

    first, gates1, second, gates2 = pre.split([3, 2, 6, 3], -1)
    left, right = factor(first, gates1, 2), factor(second, gates2, 3)
    matrix = e.view(4, 2, 3).mT
    expected = 2 * (right @ matrix @ left).mT.reshape(4, 6)
    f = mixing.factors(pre)
    torch.testing.assert_close(mixing.apply(f, e), expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close((mixing.dense(f) @ e[..., None])[..., 0], expected, rtol=1e-8, atol=1e-9)
    torch.testing.assert_close((w * expected).sum(-1), (mixing.apply_transposed(f, w) * e).sum(-1))
    (gradient,) = torch.autograd.grad((w * expected).sum(), pre)
    torch.testing.assert_close(mixing.vjp(pre, f, w, e), gradient, rtol=1e-6, atol=1e-8)


def test_known_answer_parity():
    """One reflector with lambda = 1/4 and alpha = 5/3: the eigenvalue is lambda / (1 - (1 - lambda) alpha) = -1."""
    layer = FixedPointRNN(1, 1, rank=1, hidden_dependence=(), write="b", strength=2.0, dtype=torch.float64)
    with torch.no_grad():
        layer.proj_in.weight.zero_()
        layer.proj_in.bias.zero_()
        layer.proj_in.bias[0] = torch.tensor(0.25).logit()  # lambda
        layer.proj_in.bias[2] = 1000.0  # u = 1
        layer.proj_in.bias[3] = torch.tensor(5 / 6, dtype=torch.float64).logit()  # alpha
    _, state = layer(torch.zeros(1, 7, 1, dtype=torch.float64), layer.State(torch.ones(1, 1, dtype=torch.float64)))
    torch.testing.assert_close(state.h, torch.tensor([[-1.0]], dtype=torch.float64), rtol=1e-5, atol=0)
    eigenvalues = layer.diagnostics(torch.zeros(1, 1, 1, dtype=torch.float64))["eigenvalues"]
    assert abs(eigenvalues.item() + 1) < 1e-5


def test_bad_arguments():
    for kwargs, match in (
        ({"d_state": 0}, "d_state must be a positive integer"),
        ({"rank": -1}, "rank must be a positive integer"),
        ({"rank": False}, "rank must be a positive integer"),
        ({"rank": 0, "mixing": "kronecker"}, "rank must be a positive integer"),
        ({"rank": 9}, "rank must be at most d_state = 8, got 9"),
        ({"mixing": "monarch"}, "mixing must be one of .*'kronecker', 'kronecker-released', got 'monarch'"),
        ({"mixing": "kronecker-released", "max_radius": 0.9}, "max_radius must be None with mixing 'kronecker-r"),
        ({"solver": "newton"}, "solver must be one of 'auto', 'sweeps', 'sequential', 'direct', got 'newton'"),
        ({"solver": "direct"}, "solver 'direct' needs a hidden_dependence without"),
        ({"solver": "direct", "rank": 0, "hidden_dependence": ("b",)}, "solver 'direct' needs a hidden_dependence"),
        ({"hidden_dependence": ("b", "gate")}, "hidden_dependence must be names among 'lambda', 'mixing', 'b', 'c'"),
        ({"hidden_dependence": 3}, "hidden_dependence must be names among"),
        ({"output_gate": False, "hidden_dependence": ("c",)}, "must not name c with output_gate=False"),
        ({"output_gate": None, "hidden_dependence": ()}, "output_gate must be one of True, False, got None"),
        ({"max_iterations": 0}, "max_iterations must be a positive integer"),
        ({"tolerance": -1.0}, "tolerance must be None or a finite number of at least 0"),
        ({"tolerance": 0, "max_iterations": None}, "tolerance must be above 0 where max_iterations is None"),
        ({"damping": 0.0}, r"damping must be in \(0, 1\]"),
        ({"fallback": "newton"}, "fallback must be one of True, False"),
        ({"gradient": "exact"}, "gradient must be one of 'implicit', 'phantom'"),
        ({"max_radius": 1.0}, r"max_radius must be None or in \(0, 1\)"),
        ({"write": "bx"}, r"write must be one of 'b\*v', 'b', got 'bx'"),
        ({"strength": 2.5}, r"strength must be in \(0, 2\], got 2.5"),
        ({"strength": True}, r"strength must be in \(0, 2\], got True"),
        ({"normalize_hidden": "rms"}, "normalize_hidden must be one of True, False, got 'rms'"),
    ):
        with pytest.raises(ValueError, match=match):
            FixedPointRNN(8, **kwargs)


def test_second_derivatives_are_refused_by_name():
    layer = build()
    x = torch.randn(1, 4, 8, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="fixed_point_scan: second derivatives"):
        grad.sum().backward()


def test_op_registration():
    layer = build(max_radius=0.9)
    p = layer.proj_in(torch.randn(1, 9, 8, dtype=torch.float64))[..., : layer.cell.size].detach()
    state = torch.randn(2, 6, dtype=torch.float64)
    for solver, hidden, weight in (("sequential", "lambda b mixing", layer.weight_hidden), ("direct", "", None)):
        weight = p.new_zeros(0, 6) if weight is None else weight.detach()
        leaves = [t.clone().requires_grad_() for t in (p, weight, state)]
        options = ("householder", 2, 0.45, hidden, True, True, solver, 1e-12, 100, 1.0, True, "implicit")
        torch.library.opcheck(
            torch.ops.seqmix.fixed_point_scan.default, (*leaves, torch.tensor([0, 3, 9]).int(), *options)
        )
