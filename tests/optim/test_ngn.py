"""NGN: the closed forms, the bounds of its step, what it survives, against float64 loops that follow the papers."""

import math

import pytest
import torch
from torch import nn

from seqmix.optim import NGN, NGND, NGNM, NGNMDv1

F64 = torch.float64
FAMILY = [NGN, NGNM, NGND, NGNMDv1]


def rosenbrock(x):
    return (1 - x[0]) ** 2 + 100 * (x[1] - x[0] ** 2) ** 2


def quartic(x):
    return x[0] ** 2 + x[0] ** 4


def param(*values):
    return nn.Parameter(torch.tensor(values, dtype=F64))


def one_step(optimizer, loss):
    optimizer.zero_grad()
    loss.backward()
    optimizer.step(loss=loss)


def reference(x, loss, gradient, steps, *, c, beta1=0.0, beta2=None, eps=1e-8, lam=0.0, model=False, coordinate=False):
    """2508.15071, algorithms 1 to 3, with iterates kept as there; x float64."""
    before, v = x.clone(), torch.zeros_like(x)
    for k in range(1, steps + 1):
        f, g = loss(x), gradient(x)
        metric = torch.ones_like(x)
        if beta2 is not None:
            v = beta2 * v + (1 - beta2) * g**2
            metric = eps + (v / (1 - beta2**k)).sqrt()
        if coordinate:
            step = c / (1 + c * g**2 / (2 * f)) * g
        elif model:
            s = c / (1 + lam * c)
            lean = max(0.0, 1 - s * lam * (g @ x).item() / (2 * f))
            step = s * lean / (1 + s * (g**2 / metric).sum() / (2 * f)) * g / metric
        else:
            step = c / (1 + c * (g**2 / metric).sum() / (2 * f)) * g / metric
        kept = x / (1 + lam * c) if model else (1 - lam * c) * x
        x, before = kept - (1 - beta1) * step + beta1 * (x - before), x
    return x


@pytest.mark.parametrize(
    ("make", "kwargs", "theirs"),
    [
        (NGN, {"lr": 0.5}, {}),
        (NGNM, {"lr": 0.5, "momentum": 0.9}, {"beta1": 0.9}),
        (NGND, {"lr": 0.5}, {"coordinate": True}),
        (NGND, {"lr": 0.5, "momentum": 0.8}, {"coordinate": True, "beta1": 0.8}),
        (NGNMDv1, {"lr": 0.5, "betas": (0.9, 0.99)}, {"beta1": 0.9, "beta2": 0.99}),
        (NGNMDv1, {"lr": 0.5, "weight_decay": 0.1}, {"beta1": 0.9, "beta2": 0.999, "lam": 0.1}),
        (NGNMDv1, {"lr": 0.5, "weight_decay": 0.1, "decay": "model"}, {"beta1": 0.9, "beta2": 0.999, "lam": 0.1}),
    ],
)
def test_twenty_steps_of_the_paper(make, kwargs, theirs):
    torch.manual_seed(0)
    a, b, start = torch.randn(12, 6, dtype=F64), torch.randn(12, dtype=F64), torch.randn(6, dtype=F64)
    loss = lambda x: (a @ x - b).square().mean()  # noqa: E731
    expected = reference(
        start, loss, lambda x: 2 * a.T @ (a @ x - b) / 12, 20, c=0.5, model="decay" in kwargs, **theirs
    )
    x, y = nn.Parameter(start[:2].clone()), nn.Parameter(start[2:].clone())
    optimizer = make([{"params": [x]}, {"params": [y]}], **kwargs)  # one step length over all groups
    for _ in range(20):
        one_step(optimizer, loss(torch.cat([x, y])))
    torch.testing.assert_close(torch.cat([x, y]).detach(), expected, rtol=1e-11, atol=1e-12)


def gamma(sigma, f, gradient, make=NGN):
    x = nn.Parameter(torch.zeros_like(gradient))
    x.grad = gradient
    make([x], lr=sigma).step(loss=f)
    return (-(x @ gradient) / gradient.square().sum()).item()


@pytest.mark.parametrize("sigma", [1e-6, 1e-2, 1.0, 1e3, 1e6])
@pytest.mark.parametrize("f", [1e-3, 1.0, 50.0])
def test_the_step_lies_between_half_and_all_of_the_shorter_one(sigma, f):
    g = torch.tensor([0.3, -2.0, 1.1], dtype=F64)
    polyak = 2 * f / g.square().sum().item()
    low = min(sigma, polyak)
    assert low / 2 * (1 - 1e-12) <= gamma(sigma, f, g) < low * (1 + 1e-12)


def test_limits_of_sigma():
    g = torch.tensor([0.3, -2.0, 1.1], dtype=F64)
    assert gamma(1e-9, 1.0, g) == pytest.approx(1e-9, rel=1e-8)
    assert gamma(math.inf, 1.0, g) == pytest.approx(2 / g.square().sum().item(), rel=1e-12)
    assert gamma(0.0, 1.0, g) == 0


@pytest.mark.parametrize("curvature", [0.01, 1.0, 300.0])
@pytest.mark.parametrize("sigma", [1e-3, 1.0, 1e4])
def test_on_an_isotropic_quadratic_it_is_the_proximal_step(curvature, sigma):
    x = param(2.0, -1.0, 0.5)
    expected = x.detach() / (1 + sigma * curvature)
    one_step(NGN([x], lr=sigma), curvature * x.square().sum() / 2)
    torch.testing.assert_close(x.detach(), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("sigma", [1e-3, 1.0, 1e3, 1e6])
def test_a_convex_quadratic_never_diverges(sigma):
    curvature = torch.logspace(-2, 3, 6, dtype=F64)
    x = nn.Parameter(torch.ones(6, dtype=F64))
    optimizer = NGN([x], lr=sigma)
    losses = []
    for _ in range(300):
        loss = (curvature * x**2).sum() / 2
        one_step(optimizer, loss)
        losses.append(loss.item())
    assert max(losses) <= losses[0] * (1 + 1e-12) and losses[-1] < losses[0] / 1.5


@pytest.mark.parametrize("make", [NGN, NGNM, NGND])
def test_scaling_the_loss_scales_sigma(make):
    found = []
    for scale in (1.0, 1e4):
        x = param(-1.2, 1.0)
        optimizer = make([x], lr=0.3 / scale)
        for _ in range(5):
            one_step(optimizer, scale * rosenbrock(x))
        found.append(x.detach().clone())
    torch.testing.assert_close(*found, rtol=1e-9, atol=0)


def test_each_reduces_to_the_simpler_one():
    def run(make, **kwargs):
        x = param(-1.2, 1.0)
        optimizer = make([x], lr=0.3, **kwargs)
        for _ in range(5):
            one_step(optimizer, rosenbrock(x))
        return x.detach()

    plain = run(NGN)
    torch.testing.assert_close(run(NGNM, momentum=0.0), plain, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(run(NGNMDv1, decay="model"), run(NGNMDv1), rtol=1e-9, atol=1e-12)


def test_metric_of_ones_is_ngn():
    g, x, y = torch.tensor([0.3, -2.0], dtype=F64), param(1.0, 1.0), param(1.0, 1.0)
    md = NGNMDv1([x], lr=0.7, betas=(0.0, 0.5), eps=0.0)
    md.state[x] |= {"step": torch.zeros(()), "velocity": torch.zeros(2, dtype=F64)}
    # v such that (v / 2 + g^2 / 2) / (1 - 1 / 2) = 1 for both coordinates
    md.state[x]["second_moment"] = 1 - g**2
    x.grad, y.grad = g.clone(), g.clone()
    md.step(loss=0.9)
    NGN([y], lr=0.7).step(loss=0.9)
    torch.testing.assert_close(x.detach(), y.detach(), rtol=1e-12, atol=0)


def test_decay_in_the_model_minimises_the_model():
    g, start = torch.tensor([0.3, -2.0, 0.7], dtype=F64), torch.tensor([1.0, 0.4, -2.0], dtype=F64)
    f, c, lam = 0.8, 0.6, 0.3
    x = nn.Parameter(start.clone())
    x.grad = g
    NGNMDv1([x], lr=c, betas=(0.0, 0.999), weight_decay=lam, decay="model").step(loss=f)
    metric = g.abs() + 1e-8
    p = nn.Parameter(torch.zeros(3, dtype=F64))
    solver = torch.optim.LBFGS([p], max_iter=200, tolerance_grad=1e-14, tolerance_change=1e-18)

    def model():
        solver.zero_grad()
        r = math.sqrt(f)
        value = (r + g @ p / (2 * r)) ** 2 + (metric * p**2).sum() / (2 * c)
        value = value + lam * (metric * (start + p) ** 2).sum() / 2
        value.backward()
        return value

    for _ in range(5):
        solver.step(model)
    torch.testing.assert_close(x.detach(), (start + p).detach(), rtol=1e-7, atol=1e-8)


def test_groups_with_their_own_rate_are_one_model():
    rates, f = (0.2, 3.0), 0.8
    g = [torch.tensor([0.3, -2.0], dtype=F64), torch.tensor([1.5], dtype=F64)]
    x = [nn.Parameter(torch.zeros_like(t)) for t in g]
    for p, t in zip(x, g, strict=True):
        p.grad = t.clone()
    NGN([{"params": [p], "lr": c} for p, c in zip(x, rates, strict=True)]).step(loss=f)
    total = sum(c * t.square().sum() for c, t in zip(rates, g, strict=True)) / (2 * f)
    for p, t, c in zip(x, g, rates, strict=True):
        torch.testing.assert_close(p.detach(), -c / (1 + total) * t, rtol=1e-12, atol=0)


@pytest.mark.parametrize("make", FAMILY)
def test_closure_and_loss_are_the_same(make):
    found = []
    for way in ("closure", "loss"):
        x = param(-1.2, 1.0)
        optimizer = make([x], lr=0.1)

        def closure(x=x, optimizer=optimizer):
            optimizer.zero_grad()
            loss = rosenbrock(x)
            loss.backward()
            return loss

        for _ in range(10):
            optimizer.step(closure) if way == "closure" else optimizer.step(loss=closure())
        found.append(x.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("make", FAMILY)
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_clip_coefficient_takes_the_norm_before_clipping(make, momentum):
    if make in (NGN, NGNMDv1) and momentum:
        momentum = 0.0
    g, clip = torch.tensor([0.3, -2.0], dtype=F64), 0.25
    kwargs = {} if make is NGN else {"betas": (0.0, 0.999)} if make is NGNMDv1 else {"momentum": momentum}
    x, y = param(0.0, 0.0), param(0.0, 0.0)
    x.grad, y.grad = clip * g, g.clone()
    make([x], lr=0.7, **kwargs).step(loss=0.9, clip_coefficient=torch.tensor(clip))
    make([y], lr=0.7, **kwargs).step(loss=0.9)
    if make is NGNMDv1:
        # the metric shrinks with the gradient, and the norm in it less than squared
        expected = 0.7 / (1 + 0.7 * ((clip * g) ** 2 / (clip * g).abs()).sum() / clip**2 / 1.8)
        torch.testing.assert_close(x.detach(), -expected * g.sign(), rtol=1e-6, atol=0)
    else:
        torch.testing.assert_close(x.detach(), clip * y.detach(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("c", [1e-2, 1e-1, 1.0, 1e1, 1e2])
def test_rosenbrock(c):
    assert steps_to(rosenbrock, (-1.2, 1.0), lambda x: NGNM([x], lr=c)) <= 10_000


@pytest.mark.parametrize("c", [1e-2, 1e-1, 1.0, 1e1, 1e2, 1e3, 1e4])
def test_quartic(c):
    assert steps_to(quartic, (2.0,), lambda x: NGNM([x], lr=c)) <= 10_000


@pytest.mark.parametrize(("f", "start", "lr"), [(rosenbrock, (-1.2, 1.0), 0.1), (quartic, (2.0,), 1.0)])
def test_damped_momentum_diverges_there(f, start, lr):
    def sgd(x):
        return torch.optim.SGD([x], lr=lr, momentum=0.9, dampening=0.9)

    assert steps_to(f, start, sgd) == math.inf


def steps_to(f, start, make, target=1e-12):
    x = param(*start)
    optimizer = make(x)
    for k in range(10_000):
        # by hand: autograd would be most of the time
        u, v = x.tolist() if f is rosenbrock else (x.item(), 0.0)
        if f is rosenbrock:
            loss, gradient = f((u, v)), [-2 * (1 - u) - 400 * u * (v - u * u), 200 * (v - u * u)]
        else:
            loss, gradient = f((u,)), [2 * u + 4 * u**3]
        if not loss < 1e12:
            return math.inf
        if loss < target:
            return k
        x.grad = torch.tensor(gradient, dtype=F64)
        optimizer.step(loss=loss) if isinstance(optimizer, NGNM) else optimizer.step()
    return math.inf


@pytest.mark.parametrize("make", FAMILY)
@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "needs a closure or loss=, neither given"),
        ({"closure": lambda: 1.0, "loss": 1.0}, "needs a closure or loss=, both given"),
        ({"loss": -1e-3}, "finite and at least lower_bound = 0.0, got -0.001"),
        ({"loss": torch.tensor(float("nan"))}, "finite and at least lower_bound = 0.0, got nan"),
        ({"loss": math.inf}, "finite and at least lower_bound = 0.0, got inf"),
        ({"closure": lambda: torch.tensor(-2.0)}, "finite and at least lower_bound = 0.0, got -2.0"),
        ({"loss": torch.ones(2)}, r"the loss must be one number, got \(2,\)"),
        ({"closure": lambda: None}, "the loss must be one number, got None"),
    ],
)
def test_bad_losses_move_nothing(make, kwargs, message):
    x = param(1.0, 2.0)
    optimizer = make([x], weight_decay=0.1)
    x.grad = torch.ones(2, dtype=F64)
    with pytest.raises(ValueError, match=f"{make.__name__}: .*{message}"):
        optimizer.step(**kwargs)
    assert x.tolist() == [1.0, 2.0] and not optimizer.state


@pytest.mark.parametrize("make", FAMILY)
def test_a_loss_of_zero_and_a_lower_bound(make):
    x = param(1.0, 2.0)
    x.grad = torch.tensor([1.0, 0.0], dtype=F64)
    make([x], lr=1e3).step(loss=0.0)
    torch.testing.assert_close(x.detach(), torch.tensor([1.0, 2.0], dtype=F64), rtol=0, atol=1e-7)
    x.grad.zero_()
    make([x]).step(loss=0.0)
    assert torch.isfinite(x).all()
    first, second = param(1.0, 2.0), param(1.0, 2.0)
    first.grad = second.grad = torch.tensor([1.0, -0.5], dtype=F64)
    make([first], lr=0.5, lower_bound=-3.0).step(loss=-1.0)
    make([second], lr=0.5).step(loss=2.0)
    torch.testing.assert_close(first.detach(), second.detach(), rtol=1e-12, atol=0)


def test_decay_goes_through_the_heavy_ball():
    x = param(1.0)
    optimizer = NGNMDv1([x], lr=0.1, betas=(0.5, 0.9), weight_decay=0.2)
    iterates = [1.0, 1.0]
    for _ in range(5):
        x.grad = torch.zeros_like(x)
        optimizer.step(loss=1.0)
        iterates.append(iterates[-1] * (1 - 0.02) + 0.5 * (iterates[-1] - iterates[-2]))
    assert x.item() == pytest.approx(iterates[-1], rel=1e-12)


@pytest.mark.parametrize("make", [NGND, NGNMDv1])
def test_infinite_rates_belong_to_ngn_and_ngn_m(make):
    with pytest.raises(ValueError, match=f"{make.__name__}: lr must be finite, got inf"):
        make([param(1.0)], lr=math.inf)


@pytest.mark.parametrize("make", [NGN, NGNM])
def test_an_infinite_rate_has_no_decay(make):
    with pytest.raises(ValueError, match=r"weight_decay must be 0 where lr is infinite, got 0.1 and inf"):
        make([param(1.0)], lr=math.inf, weight_decay=0.1)


@pytest.mark.parametrize("make", [NGNM, lambda p, **k: NGND(p, momentum=0.9, **k), NGNMDv1])
def test_the_heavy_ball_rolls_on_at_rate_zero(make):
    x = param(1.0, 2.0)
    optimizer = make([x], lr=0.1)
    last = torch.zeros(2, dtype=F64)
    for rate, loss in ((0.1, 1.0), (0.0, 1.0), (0.0, 0.0)):
        optimizer.param_groups[0]["lr"] = rate
        before, x.grad = x.detach().clone(), torch.tensor([1.0, -2.0], dtype=F64)
        optimizer.step(loss=loss)
        moved = x.detach() - before
        if not rate:
            torch.testing.assert_close(moved, 0.9 * last, rtol=1e-12, atol=0)
        last = moved


@pytest.mark.parametrize("make", FAMILY)
def test_the_lower_bound_is_in_the_state(make):
    found = []
    for bound in (-3.0, 0.0):
        x = param(1.0, 2.0)
        optimizer = make([x], lr=0.5, lower_bound=-3.0)
        if not bound:
            state = optimizer.state_dict()
            optimizer = make([x], lr=0.5)
            optimizer.load_state_dict(state)
        x.grad = torch.tensor([1.0, -0.5], dtype=F64)
        optimizer.step(loss=-1.0)
        found.append(x.detach())
    assert torch.equal(*found)
    with pytest.raises(ValueError, match=r"lower_bound must be that of the other groups, -3.0, got 0.0"):
        optimizer.add_param_group({"params": [param(1.0)], "lower_bound": 0.0})
