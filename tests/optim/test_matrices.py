"""Optimizers of matrices: orthogonal factors, Muown and AngularMuown by their equations, LMO by duality."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from seqmix.optim import LMO, AngularMuown, Muown, create_optimizer
from seqmix.optim.orthogonal import PUBLISHED, best_quintic, orthogonalize, polar_express

F64 = torch.float64
EXACT = {"method": "svd"}


def unitary(matrix):
    u, _, vh = torch.linalg.svd(matrix, full_matrices=False)
    return u @ vh


def gradients(shape, count, scale=1.0):
    torch.manual_seed(3)
    return [scale * torch.randn(shape, dtype=F64) for _ in range(count)]


def run(optimizer, p, grads):
    for g in grads:
        p.grad = g.to(p.dtype).clone()
        optimizer.step()
    return p.detach()


class Adam:
    def __init__(self, betas):
        self.betas, self.m, self.v, self.k = betas, 0.0, 0.0, 0

    def __call__(self, g):
        self.k += 1
        self.m = self.betas[0] * self.m + (1 - self.betas[0]) * g
        self.v = self.betas[1] * self.v + (1 - self.betas[1]) * g**2
        return self.m / (1 - self.betas[0] ** self.k) / ((self.v / (1 - self.betas[1] ** self.k)).sqrt() + 1e-8)


def reference_muown(w, grads, *, lr, mu=0.95, wd=0.0, nesterov=True, blocks=1):
    """2605.10797: lengths g, directions v / |v|; lengths positive throughout."""
    g = v_norm = w.norm(dim=1, keepdim=True)
    momentum, adam = torch.zeros_like(w), Adam((0.9, 0.95))
    for grad in grads:
        u, old = w / g, w
        slope = (grad * u).sum(1, keepdim=True)
        tangent = g / v_norm * (grad - u * slope)
        momentum = mu * momentum + tangent
        looked = tangent + mu * momentum if nesterov else momentum
        parts = [0.2 * math.sqrt(max(b.shape)) * unitary(b) for b in looked.chunk(blocks)]
        v = u * v_norm - lr * torch.cat(parts)
        g = g - lr * adam(slope)
        v_norm = v.norm(dim=1, keepdim=True)
        w = g * v / v_norm
        if wd:
            w = w - lr * wd * old
            g = w.norm(dim=1, keepdim=True)
    return w


def reference_angular(w, grads, *, lr, mu=0.95, warmup=0, rms=False):
    """2606.23637: unit rows u, lengths g."""
    g = w.norm(dim=1, keepdim=True)
    u, momentum, adam = w / g, torch.zeros_like(w), Adam((0.9, 0.95))
    m, n = w.shape
    s = 0.2 * math.sqrt(max(m, n)) if rms else math.sqrt(max(1, m / n))
    for t, grad in enumerate(grads):
        slope = (grad * u).sum(1, keepdim=True)
        tangent = g * (grad - u * slope)
        momentum = mu * momentum + tangent
        kappa = 1 / (1 + 0.001 * max(0, t - warmup))
        u = u - lr * kappa * s * unitary(tangent + mu * momentum)
        u = u / u.norm(dim=1, keepdim=True)
        g = g - lr * adam(slope)
    return g * u


@pytest.mark.parametrize(
    "kwargs", [{}, {"weight_decay": 0.3}, {"nesterov": False}, {"row_blocks": 3}, {"row_blocks": (2, 2, 2)}]
)
def test_muown_follows_its_equations(kwargs):
    w, grads = gradients((6, 9), 1)[0], gradients((6, 9), 11)[1:]
    theirs = {"wd": kwargs.get("weight_decay", 0.0), "nesterov": kwargs.get("nesterov", True)}
    expected = reference_muown(w, grads, lr=0.03, blocks=3 if "row_blocks" in kwargs else 1, **theirs)
    p = nn.Parameter(w.clone())
    torch.testing.assert_close(run(Muown([p], lr=0.03, **kwargs, **EXACT), p, grads), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("kwargs", [{}, {"warmup": 5}, {"scale": "rms"}])
@pytest.mark.parametrize("shape", [(6, 9), (9, 4)])
def test_angular_muown_follows_its_equations(kwargs, shape):
    w, grads = gradients(shape, 1)[0], gradients(shape, 11)[1:]
    expected = reference_angular(w, grads, lr=0.03, warmup=kwargs.get("warmup", 0), rms="scale" in kwargs)
    p = nn.Parameter(w.clone())
    optimizer = AngularMuown([p], lr=0.03, **kwargs, **EXACT)
    torch.testing.assert_close(run(optimizer, p, grads), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", [Muown, AngularMuown])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_row_lengths_are_the_state(make, decay):
    p = nn.Parameter(torch.randn(6, 9))
    optimizer = make([p], lr=0.03, weight_decay=decay)
    run(optimizer, p, gradients((6, 9), 20))
    lengths = optimizer.state[p]["length"].abs()
    torch.testing.assert_close(p.detach().norm(dim=1, keepdim=True), lengths, rtol=1e-5, atol=0)


def test_muown_directions_turn_ever_slower():
    p = nn.Parameter(torch.randn(6, 9, dtype=F64))
    optimizer = Muown([p], lr=0.03)
    norms = []
    for g in gradients((6, 9), 30):
        run(optimizer, p, [g])
        norms.append(optimizer.state[p]["norm"].clone())
    assert (norms[-1] > norms[0]).all()


@pytest.mark.parametrize("make", [Muown, AngularMuown, lambda p, **k: LMO(p, norm="spectral", **k)])
@pytest.mark.parametrize("scale", [1e-3, 1e3])
def test_the_scale_of_gradients_does_not_matter(make, scale):
    found = []
    for factor in (1.0, scale):
        torch.manual_seed(0)
        p = nn.Parameter(torch.randn(6, 9))
        found.append(run(make([p], lr=0.03, precision="float32"), p, gradients((6, 9), 10, factor)))
    torch.testing.assert_close(*found, rtol=1e-4, atol=2e-5)


def test_muown_moves_directions_across_rows():
    p = nn.Parameter(torch.randn(6, 9, dtype=F64))
    optimizer = Muown([p], lr=0.03, momentum=0.0)
    run(optimizer, p, gradients((6, 9), 3))
    before = p.detach().clone()
    run(optimizer, p, gradients((6, 9), 4)[3:])
    tangent = optimizer.state[p]["momentum"]
    assert (tangent * before).sum(1).abs().max() < 1e-12 * tangent.norm() * before.norm()


@pytest.mark.parametrize("make", [Muown, AngularMuown])
@pytest.mark.parametrize("zero", ["all", "one"])
def test_rows_of_zeros_stay_finite_and_grow(make, zero):
    torch.manual_seed(0)
    w = torch.randn(6, 9)
    w[slice(None) if zero == "all" else 2] = 0
    p, target, x = nn.Parameter(w), torch.randn(6, 9), torch.randn(40, 9)
    optimizer = make([p], lr=0.02)
    losses = []
    for k in range(150):
        optimizer.zero_grad()
        loss = (x @ (p - target).T).square().mean()
        loss.backward()
        if k == 0:
            first = p.grad.clone()
        optimizer.step()
        assert torch.isfinite(p).all()
        if k == 0:  # along the negative gradient, by lr
            torch.testing.assert_close(p[2].detach(), -0.02 * first[2] / first[2].norm(), rtol=1e-2, atol=1e-4)
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0]


@pytest.mark.parametrize("make", [Muown, AngularMuown])
def test_a_row_without_weight_and_gradient_waits(make):
    p = nn.Parameter(torch.zeros(2, 3))
    optimizer = make([p], lr=0.1)
    run(optimizer, p, [torch.tensor([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]], dtype=F64)] * 3)
    assert (p[0] != 0).all() and (p[1] == 0).all()
    run(optimizer, p, [torch.ones(2, 3, dtype=F64)])
    assert torch.isfinite(p).all() and (p[1] < 0).all()


@pytest.mark.parametrize("make", [Muown, AngularMuown])
def test_a_length_that_crosses_zero_keeps_its_direction(make):
    p = nn.Parameter(torch.tensor([[0.1, 0.0], [0.0, 1.0]], dtype=F64))
    optimizer = make([p], lr=0.1, momentum=0.0)
    for _ in range(8):
        run(optimizer, p, [torch.tensor([[1.0, 0.0], [0.0, 1.0]], dtype=F64)])
        assert torch.isfinite(p).all() and p[0, 0] != 0
    assert p[0, 0] < -0.1 and optimizer.state[p]["length"][0] < -0.1


def test_fused_blocks_are_matrices_of_their_own():
    grads = gradients((12, 5), 6)
    whole = nn.Parameter(torch.randn(12, 5, dtype=F64))
    parts = [nn.Parameter(part.clone()) for part in whole.detach().chunk(3)]
    fused, split = Muown([whole], lr=0.03, row_blocks=3), Muown(parts, lr=0.03)
    for g in grads:
        whole.grad = g
        for part, piece in zip(parts, g.chunk(3), strict=True):
            part.grad = piece
        fused.step()
        split.step()
    torch.testing.assert_close(whole.detach(), torch.cat([p.detach() for p in parts]), rtol=1e-9, atol=1e-11)


def test_fused_blocks_by_name():
    model = nn.ModuleDict({"qkv_proj": nn.Linear(4, 12), "out_proj": nn.Linear(4, 4)})
    optimizer = create_optimizer("muown", model, fused={"qkv": 3})
    blocks = {tuple(g["params"][0].shape): g["row_blocks"] for g in optimizer.param_groups if g["part"] == "muown"}
    assert blocks == {(12, 4): 3, (4, 4): 1}
    with pytest.raises(ValueError, match="fused must find a trainable matrix, 'kv_cache' finds none"):
        create_optimizer("muown", model, fused={"kv_cache": 2})
    with pytest.raises(ValueError, match=r"matrix, 'qkv' finds none of out_proj.weight$"):
        create_optimizer("muown", model, fused={"qkv": 3}, rest="qkv")
    with pytest.raises(ValueError, match="argument of optimizer 'muon': 'fused'"):
        create_optimizer("muon", model, fused={"qkv": 3})


@pytest.mark.parametrize("shape", [(64, 256), (256, 64), (2, 16, 64)])
@pytest.mark.parametrize(
    ("method", "low", "high"),
    [("newton-schulz", 0.67, 1.21), ("polar-express", 0.85, 1.15), ("polar-express-published", 0.85, 1.15)],
)
@pytest.mark.parametrize("precision", ["bfloat16", "float32"])
def test_singular_values_come_near_one(shape, method, low, high, precision):
    values = torch.linalg.svdvals(orthogonalize(torch.randn(shape), method, precision=precision).float())
    assert low < values.min() and values.max() < high


def test_angular_muown_has_the_triples_of_its_source():
    g = torch.randn(6, 9, dtype=F64)
    for steps in (2, 5, 7):
        x = g / (1.01 * g.norm())
        for a, b, c in [*PUBLISHED, *PUBLISHED[-1:] * 2][:steps]:
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        torch.testing.assert_close(orthogonalize(g, "polar-express-published", steps=steps), x, rtol=1e-9, atol=1e-11)
    for ours, theirs in zip(polar_express(5)[:4], PUBLISHED, strict=False):
        assert ours == pytest.approx(theirs, rel=0.014)
    p = nn.Parameter(torch.randn(6, 9))
    assert AngularMuown([p]).param_groups[0]["method"] == "polar-express-published"


@pytest.mark.parametrize("method", ["newton-schulz", "polar-express", "polar-express-published", "svd"])
def test_orthogonal_factor_is_equivariant(method):
    g = torch.randn(6, 9, dtype=F64)
    q, r = torch.linalg.qr(torch.randn(6, 6, dtype=F64))[0], torch.linalg.qr(torch.randn(9, 9, dtype=F64))[0]
    of = lambda x: orthogonalize(x, method)  # noqa: E731
    kept = g.clone()
    torch.testing.assert_close(of(q @ g @ r), q @ of(g) @ r, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(of(g.T), of(g).T, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(of(1e6 * g), of(g), rtol=1e-9, atol=1e-12)
    assert torch.equal(g, kept)
    assert torch.equal(of(torch.zeros(3, 4)), torch.zeros(3, 4).to(of(torch.zeros(3, 4)).dtype))
    if method == "svd":
        torch.testing.assert_close(of(g), unitary(g))
        flat = torch.outer(torch.ones(3, dtype=F64), torch.ones(4, dtype=F64))
        torch.testing.assert_close(of(flat), flat / 12**0.5)


def test_quintics_are_the_best_ones():
    low, high = 0.05, 1.0
    a, b, c = best_quintic(low, high)
    x = np.linspace(low, high, 20001)
    error = 1 - (a * x + b * x**3 + c * x**5)
    # four alternations of one size: nothing else of this form has a smaller largest error
    inside = [v for u, v, w in zip(error, error[1:], error[2:], strict=False) if (v - u) * (w - v) < 0]
    extrema = [error[0], *inside, error[-1]]
    assert len(extrema) == 4
    assert np.ptp(np.abs(extrema)) < 1e-6 and all(p * q < 0 for p, q in itertools.pairwise(extrema))
    assert len(polar_express(7)) == 7


def test_a_low_precision_buffer_is_not_normalised():
    # torch 2.13's Muon divides its momentum by its own norm here
    torch.manual_seed(0)
    p = nn.Parameter(torch.randn(8, 8).bfloat16())
    g = torch.randn(8, 8)
    for make in (lambda p: LMO(p, norm="spectral"), lambda p: Muown(p, nesterov=False)):
        optimizer = make([p])
        key = "mean" if isinstance(optimizer, LMO) else "momentum"
        unit = nn.functional.normalize(p.detach().float(), dim=1)
        size = 0.1 * g.norm() if key == "mean" else (g - unit * (g * unit).sum(1, keepdim=True)).norm()
        p.grad = g.bfloat16()
        optimizer.step()
        assert optimizer.state[p][key].float().norm() == pytest.approx(size.item(), rel=0.02)
        assert abs(size - 1) > 0.1


@pytest.mark.parametrize("norm", ["l2", "l_inf", "spectral"])
def test_lmo_steps_reach_the_dual_norm(norm):
    p, g = nn.Parameter(torch.zeros(6, 9, dtype=F64)), torch.randn(6, 9, dtype=F64)
    z = run(LMO([p], lr=1.0, norm=norm, momentum=0.0, **EXACT), p, [g])
    primal = {"l2": z.norm(), "l_inf": z.abs().max(), "spectral": torch.linalg.matrix_norm(z, 2)}
    dual = {"l2": g.norm(), "l_inf": g.abs().sum(), "spectral": torch.linalg.matrix_norm(g, "nuc")}
    size, reach = primal[norm], dual[norm]
    assert size.item() == pytest.approx(1, rel=1e-12)
    assert (g * z).sum().item() == pytest.approx(-reach.item(), rel=1e-12)


@pytest.mark.parametrize("norm", ["l2", "l_inf", "spectral"])
@pytest.mark.parametrize("constrained", [False, True])
def test_lmo_follows_its_equations(norm, constrained):
    w, grads = gradients((6, 9), 1)[0], gradients((6, 9), 11)[1:]
    p, d, x = nn.Parameter(w.clone()), torch.zeros_like(w), w.clone()
    oracle = {"l2": lambda t: -t / t.norm(), "l_inf": lambda t: -t.sign(), "spectral": lambda t: -unitary(t)}[norm]
    for g in grads:
        d = 0.8 * d + 0.2 * g
        x = (1 - 0.05 if constrained else 1) * x + 0.05 * 3 * oracle(d)
    optimizer = LMO([p], lr=0.05, norm=norm, momentum=0.8, radius=3.0, constrained=constrained, **EXACT)
    torch.testing.assert_close(run(optimizer, p, grads), x, rtol=1e-9, atol=1e-10)


def test_normalised_sgd_has_one_norm_for_all_groups():
    x, y = nn.Parameter(torch.zeros(2)), nn.Parameter(torch.zeros(1))
    x.grad, y.grad = torch.tensor([2.0, 1.0]), torch.tensor([2.0])
    LMO([{"params": [x]}, {"params": [y], "lr": 0.5}], lr=1.0, momentum=0.0).step()
    torch.testing.assert_close(torch.cat([x, y]).detach(), torch.tensor([-2.0, -1.0, -1.0]) / 3)


def test_groups_differ_in_their_norm():
    x, y = nn.Parameter(torch.zeros(3)), nn.Parameter(torch.zeros(2, 2))
    x.grad, y.grad = torch.tensor([2.0, -1.0, 0.0]), torch.diag(torch.tensor([3.0, -2.0]))
    groups = [{"params": [x], "norm": "l_inf"}, {"params": [y], "norm": "spectral"}]
    LMO(groups, lr=1.0, momentum=0.0, **EXACT).step()
    assert x.tolist() == [-1, 1, 0]
    torch.testing.assert_close(y.detach(), torch.diag(torch.tensor([-1.0, 1.0])))
