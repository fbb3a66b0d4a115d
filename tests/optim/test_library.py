"""Invariants of optimizers that libraries ship, as this package makes them: signs, sharpness, averages, decay."""

import pytest
import torch
from torch import nn

from seqmix.optim import create_optimizer
from tests.optim.test_registry import problem


class Point(nn.Module):
    def __init__(self, *shape):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(*shape, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("name", ["signum", "lion", "tiger"])
def test_signs_move_every_coordinate_by_the_rate(name):
    found = []
    for scale in (1.0, 1e3):
        model = Point(4, 3)
        optimizer = create_optimizer(name, model, lr=0.25, weight_decay=0.0)
        stream = torch.Generator().manual_seed(1)
        for _ in range(5):
            before = model.weight.detach().clone()
            model.weight.grad = scale * torch.randn(4, 3, generator=stream)
            optimizer.step()
            torch.testing.assert_close((model.weight - before).abs().detach(), torch.full((4, 3), 0.25))
        found.append(model.weight.detach())
    assert torch.equal(*found)


@pytest.mark.parametrize("name", ["adamw", "lion", "muon", "mars"])
def test_decay_is_a_factor_at_zero_gradient(name):
    model = Point(4, 3)
    optimizer = create_optimizer(name, model, lr=0.1, weight_decay=0.5)
    before = model.weight.detach().clone()
    model.weight.grad = torch.zeros(4, 3)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), 0.95 * before)


@pytest.mark.parametrize("adaptive", [True, False])
def test_adaptive_sharpness_does_not_see_scales(adaptive):
    # the weights of two layers around a ReLU, one times s and the other over it, are the same function
    climbed = []
    for scale in (1.0, 4.0):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 8, bias=False), nn.ReLU(), nn.Linear(8, 4, bias=False))
        with torch.no_grad():
            model[0].weight.mul_(scale)
            model[2].weight.div_(scale)
        optimizer = create_optimizer("sam", model, lr=0.0, rho=0.5, adaptive=adaptive, base="sgd")
        loss, seen = problem(model), []

        def closure(optimizer=optimizer, loss=loss, seen=seen):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            seen.append(value.item())
            return value

        optimizer.step(closure)
        assert loss().item() == pytest.approx(seen[0], rel=1e-6) and seen[1] > seen[0]
        climbed.append(seen[1])
    assert (climbed[0] == pytest.approx(climbed[1], rel=1e-5)) is adaptive


@pytest.mark.parametrize("name", ["schedulefreesgd", "schedulefreeadamw"])
def test_schedule_free_weights_are_the_mean_of_its_iterates(name):
    model = Point(4, 3)
    optimizer = create_optimizer(name, model, lr=0.1)
    optimizer.train()
    iterates = []
    for k in range(8):
        optimizer.zero_grad()
        (model.weight**4).sum().backward()
        optimizer.step()
        iterates.append(optimizer.state[model.weight]["z"].clone())
        there = model.weight.detach().clone()
        optimizer.eval()
        torch.testing.assert_close(model.weight.detach(), torch.stack(iterates).mean(0), rtol=1e-5, atol=1e-6)
        assert k == 0 or (model.weight != there).any()
        optimizer.train()
        torch.testing.assert_close(model.weight.detach(), there, rtol=1e-5, atol=1e-6)
