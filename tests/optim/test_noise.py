"""Noise around an optimizer: what it adds up to, its covariance, that a resumed run goes on with it."""

import math

import pytest
import torch
from torch import nn

from seqmix.optim import NGN, AntiPGD, FractionalPGD, LayerNoise, create_optimizer
from seqmix.optim.fractional_pgd import fractional_covariance, predictors

F64 = torch.float64


def pure_noise(make, steps, size=4, **kwargs):
    """Positions (steps + 1, size) under noise alone."""
    p = nn.Parameter(torch.zeros(size, dtype=F64))
    optimizer = make(torch.optim.SGD([p], lr=1.0), sigma=1.0, **kwargs)
    path = [p.detach().clone()]
    for _ in range(steps):
        p.grad = torch.zeros_like(p)
        optimizer.step()
        path.append(p.detach().clone())
    return torch.stack(path), optimizer, p


def test_anti_pgd_telescopes():
    path, optimizer, p = pure_noise(AntiPGD, 50, 20_000)
    torch.testing.assert_close(path[-1], optimizer.state[p]["noise"], rtol=0, atol=1e-12)
    assert path[1:].std(1).sub(1).abs().max() < 0.03
    steps = path.diff(dim=0)[1:]
    correlation = (steps[1:] * steps[:-1]).mean() / steps.square().mean()
    assert correlation.item() == pytest.approx(-0.5, abs=0.005)
    assert (steps[2:] * steps[:-2]).mean().abs() < 0.02


def test_anti_pgd_smooths_by_the_trace():
    # mean gradient of f(x) = x^4 / 4 at z + xi is z^3 + 3 sigma^2 z, that of f + sigma^2 / 2 f''
    z, sigma = 0.7, 0.3
    p = nn.Parameter(torch.full((200_000,), z, dtype=F64))
    optimizer = AntiPGD(torch.optim.SGD([p], lr=1.0), sigma=sigma)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    assert (p.detach() ** 3).mean().item() == pytest.approx(z**3 + 3 * sigma**2 * z, rel=0.01)


@pytest.mark.parametrize("hurst", [0.1, 0.25, 0.5, 0.8])
def test_fractional_increments_have_their_covariance(hurst):
    path, _, _ = pure_noise(FractionalPGD, 12, 200_000, hurst=hurst, memory=4)
    steps = path.diff(dim=0)
    for distance in range(5):  # also after the memory is full
        for start in (0, 12 - distance - 1):
            found = (steps[start] * steps[start + distance]).mean().item()
            assert found == pytest.approx(fractional_covariance(hurst, distance), abs=0.012)


@pytest.mark.parametrize("hurst", [0.1, 0.5, 0.8])
def test_predictors_factor_the_covariance(hurst):
    size = 12
    covariance = torch.tensor(
        [[fractional_covariance(hurst, i - j) for j in range(size)] for i in range(size)], dtype=F64
    )
    rows, table = torch.eye(size, dtype=F64), predictors(hurst, size)
    for i in range(size):
        weights, deviation = table[i]
        for j, weight in enumerate(weights, 1):
            rows[i, i - j] = -weight
        assert deviation > 0
    spread = torch.diag(torch.tensor([table[i][1] ** 2 for i in range(size)], dtype=F64))
    torch.testing.assert_close(rows @ covariance @ rows.T, spread, rtol=0, atol=1e-12)


def test_limits_of_hurst():
    assert [fractional_covariance(0.5, j) for j in range(4)] == [1, 0, 0, 0]
    near = [fractional_covariance(1e-9, j) for j in range(4)]
    assert near == pytest.approx([1, -0.5, 0, 0], abs=1e-8)  # twice the variance of Anti-PGD's noise, its correlation
    path, optimizer, p = pure_noise(FractionalPGD, 3, hurst=0.5)
    assert "increments" not in optimizer.state[p] and (path.diff(dim=0) != 0).all()


@pytest.mark.parametrize("make", [AntiPGD, FractionalPGD, LayerNoise])
def test_without_noise_it_is_the_base(make):
    found = []
    for wrapped in (False, True):
        p = nn.Parameter(torch.linspace(1, 2, 5, dtype=F64))
        optimizer = torch.optim.Adam([p], lr=0.1)
        optimizer = make(optimizer, sigma=0.0) if wrapped else optimizer
        for _ in range(5):
            optimizer.zero_grad()
            (p**4).sum().backward()
            optimizer.step()
        found.append(p.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("make", [AntiPGD, FractionalPGD, LayerNoise])
def test_noise_is_not_filtered_by_momentum(make):
    first = []
    for momentum in (0.0, 0.9):
        p = nn.Parameter(torch.zeros(5))
        optimizer = make(torch.optim.SGD([p], lr=0.1, momentum=momentum), sigma=0.1)
        for _ in range(3):
            p.grad = torch.zeros_like(p)
            optimizer.step()
        first.append(p.detach())
    assert torch.equal(*first)


@pytest.mark.parametrize("name", ["anti-pgd", "fractional-pgd", "layer-noise"])
@pytest.mark.parametrize("base", ["adamw", {"name": "muown"}, {"name": "ngn-m", "lr": 1.0}, {"name": "lion"}])
def test_around_any_optimizer(name, base):
    torch.manual_seed(0)
    model, x, y = nn.Linear(4, 3), torch.randn(20, 4), torch.randn(20, 3)
    optimizer = create_optimizer(name, model, base=base, lr=0.02, sigma=1e-3)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 60, 0.1)
    rates, losses = [group["lr"] for group in optimizer.param_groups], []
    for _ in range(60):
        optimizer.zero_grad()
        loss = (model(x) - y).square().mean()
        loss.backward()
        optimizer.step(loss=loss) if "ngn" in str(base) else optimizer.step()
        schedule.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    assert [group["lr"] for group in optimizer.param_groups] == [pytest.approx(0.1 * rate) for rate in rates]


def test_seeds_differ_and_repeat():
    paths = [pure_noise(AntiPGD, 3, seed=seed)[0] for seed in (0, 0, 1)]
    assert torch.equal(paths[0], paths[1]) and not torch.equal(paths[0], paths[2])


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda b: AntiPGD(b, sigma=-1.0), ValueError, "AntiPGD: sigma must be at least 0"),
        (lambda b: AntiPGD([b]), ValueError, "AntiPGD: base must be an optimizer, got list"),
        (lambda b: FractionalPGD(b, hurst=1.0), ValueError, r"hurst must be in \(0, 1\), got 1.0"),
        (lambda b: FractionalPGD(b, hurst=math.nan), ValueError, "hurst must be in"),
        (lambda b: FractionalPGD(b, memory=0), ValueError, "memory must be at least 1, got 0"),
        (lambda b: AntiPGD(b, seed=-1), ValueError, "seed must be a whole number of at least 0, got -1"),
        (lambda b: AntiPGD(b, seed=0.5), ValueError, "seed must be a whole number of at least 0, got 0.5"),
    ],
)
def test_mistakes(call, error, message):
    with pytest.raises(error, match=message):
        call(torch.optim.SGD([nn.Parameter(torch.ones(2))]))


def test_complex_parameters_are_refused():
    with pytest.raises(NotImplementedError, match="complex"):
        AntiPGD(torch.optim.SGD([nn.Parameter(torch.ones(2, dtype=torch.complex64))]))


def test_groups_that_come_later_draw_at_the_same_step():
    first, late = nn.Linear(2, 2), nn.Linear(2, 3)
    optimizer = AntiPGD(torch.optim.SGD(first.named_parameters(), lr=0.1))
    first.weight.grad = torch.ones(2, 2)
    optimizer.step()
    optimizer.add_param_group({"params": late.named_parameters(prefix="late")})
    assert [len(group["params"]) for group in optimizer.param_groups] == [2, 2]
    assert [group["noise_step"] for group in optimizer.param_groups] == [1, 1]
    with pytest.raises(NotImplementedError, match="complex"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(2, dtype=torch.complex64))]})
    assert len(optimizer.param_groups) == 2


def test_a_bad_loss_adds_no_noise():
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = AntiPGD(NGN([p]), sigma=1.0)
    with pytest.raises(ValueError, match="finite and at least"):
        optimizer.step(loss=-1.0)
    assert p.tolist() == [1, 1] and optimizer.param_groups[0]["noise_step"] == 0


def test_layer_noise_is_in_one_layer_at_a_time():
    net = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 4, bias=False), nn.Linear(4, 1))
    before = [p.detach().clone() for p in net.parameters()]
    optimizer = LayerNoise(torch.optim.SGD(net.parameters(), lr=1.0), sigma=0.5, seed=3)
    layers = [{0, 1}, {2}, {3, 4}]  # a matrix and the bias behind it
    for turn in range(7):
        for p in net.parameters():
            p.grad = torch.zeros_like(p)
        optimizer.step()
        moved = {
            index
            for index, (p, start) in enumerate(zip(net.parameters(), before, strict=True))
            if (p.detach() - start).abs().max() > 1e-3  # rounding stays of what was taken back
        }
        assert moved == layers[turn % 3]
