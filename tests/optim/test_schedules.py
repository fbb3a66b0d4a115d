"""Schedules: continuous, monotone, above their floor, resumable, extendable; rules of transfer against the bound."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch

from seqmix.optim import create_schedule, transfer
from seqmix.optim.schedules import SCHEDULES, check_schedule

FALLING = [
    ("cosine", {}),
    ("linear", {}),
    ("wsd", {"shape": "1-sqrt"}),
    ("wsd", {"shape": "linear", "cooldown": 30}),
    ("wsd", {"shape": "cosine", "cooldown": 0.5}),
]


def scheduled(name: str, total: int, lr: float = 2.0, **kwargs):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr)
    return optimizer, create_schedule(name, optimizer, total, **kwargs)


def rates(optimizer: torch.optim.Optimizer, schedule, steps: int) -> list[float]:
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize("final", [0.0, 0.1, 1.0])
@pytest.mark.parametrize(("name", "kwargs"), FALLING)
def test_shape(name: str, kwargs: dict, final: float) -> None:
    total, warmup = 100, 10
    factor = SCHEDULES[name](total, warmup=warmup, final=final, **kwargs)
    values = [factor(step) for step in range(total + 20)]
    assert values[:warmup] == pytest.approx([(step + 1) / warmup for step in range(warmup)])
    assert values[warmup] == 1
    after = values[warmup:]
    assert all(a >= b for a, b in itertools.pairwise(after))
    assert min(after) >= final
    # The floor itself, and nothing else, from the first step that is not taken.
    assert values[total:] == [final] * 20
    assert final == 1 or final < values[total - 1] < final + (1 - final) / 5
    if kwargs.get("shape") != "1-sqrt":  # whose slope is infinite where it begins
        assert max(a - b for a, b in itertools.pairwise(after)) <= 0.06


def test_wsd_by_hand() -> None:
    line = SCHEDULES["wsd"](50, warmup=5, cooldown=0.2, shape="linear", final=0.5)
    assert [line(step) for step in (4, 20, 40, 45, 49, 50)] == pytest.approx([1, 1, 1, 0.75, 0.55, 0.5])
    root = SCHEDULES["wsd"](50, warmup=5, cooldown=10, shape="1-sqrt")
    assert root(44) == pytest.approx(1 - math.sqrt(0.4))


def test_cosine_by_epoch_is_that_of_its_first_steps() -> None:
    by_step, by_epoch = SCHEDULES["cosine"](20, warmup=2), SCHEDULES["cosine"](20, warmup=2, every=6)
    assert [by_epoch(step) for step in range(2, 20)] == [by_step(2 + 6 * epoch) for epoch in range(3) for _ in range(6)]


def test_constant_stays() -> None:
    assert {SCHEDULES["constant"](10)(step) for step in (0, 5, 10, 10**6)} == {1.0}


@pytest.mark.parametrize(("name", "kwargs"), [*FALLING, ("constant", {})])
def test_resumed_equals_uninterrupted(name: str, kwargs: dict) -> None:
    whole = rates(*scheduled(name, 60, warmup=7, **kwargs), 60)
    for stop in (3, 20, 58):
        optimizer, schedule = scheduled(name, 60, warmup=7, **kwargs)
        first = rates(optimizer, schedule, stop)
        state = copy.deepcopy((optimizer.state_dict(), schedule.state_dict()))
        optimizer, schedule = scheduled(name, 60, lr=0.1, warmup=7, **kwargs)
        optimizer.load_state_dict(state[0])
        schedule.load_state_dict(state[1])
        assert first + rates(optimizer, schedule, 60 - stop) == whole


@pytest.mark.parametrize("cooldown", [0.25, 10])
def test_horizon_grows_in_the_stable_phase(cooldown: float) -> None:
    kwargs = {"warmup": 5, "cooldown": cooldown}
    whole = rates(*scheduled("wsd", 80, **kwargs), 80)
    optimizer, schedule = scheduled("wsd", 40, **kwargs)
    first = rates(optimizer, schedule, 28)
    later, extended = scheduled("wsd", 80, **kwargs)
    later.load_state_dict(optimizer.state_dict())
    extended.load_state_dict(schedule.state_dict())
    assert first + rates(later, extended, 52) == whole
    # In the cooldown it is too late, and a constant rate may end in a cooldown at any time.
    rates(optimizer, schedule, 8)
    with pytest.raises(ValueError, match=r"stable phase of 'wsd'; at step 36"):
        scheduled("wsd", 80, **kwargs)[1].load_state_dict(schedule.state_dict())
    optimizer, schedule = scheduled("constant", 40, warmup=5)
    rates(optimizer, schedule, 20)
    scheduled("wsd", 40, **kwargs)[1].load_state_dict(schedule.state_dict())


def test_horizon_of_a_cosine_is_fixed() -> None:
    optimizer, schedule = scheduled("cosine", 40)
    rates(optimizer, schedule, 10)
    says = r"continues with other total steps.* with 'cosine' over 40 steps .* over 80 steps\. A run .* begins$"
    with pytest.raises(ValueError, match=says):
        scheduled("cosine", 80)[1].load_state_dict(schedule.state_dict())


@pytest.mark.parametrize(
    ("name", "kwargs", "message"),
    [
        ("wds", {}, "did you mean 'wsd'"),
        ("wsd", {"cooldwn": 1}, "did you mean 'cooldown'"),
        ("wsd", {"cooldown": -0.1}, "cooldown must be a share"),
        ("wsd", {"cooldown": 1.5}, "whole steps, got 1.5"),
        ("wsd", {"cooldown": True}, "cooldown must be"),
        ("wsd", {"shape": "sqrt"}, "did you mean '1-sqrt'"),
        ("linear", {"final": 1.1}, "final must be a factor"),
        ("linear", {"warmup": 0.1}, "warmup must be a number of steps"),
        ("cosine", {"every": 0}, "every must be a positive number of steps, got 0"),
        ("linear", {"every": 2}, "unknown argument of schedule 'linear'"),
        ("constant", {"final": 0.1}, "unknown argument of schedule 'constant'"),
    ],
)
def test_mistakes(name: str, kwargs: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_schedule(name, **kwargs)


def test_cooldown_longer_than_the_run() -> None:
    with pytest.raises(ValueError, match=r"at most the 100 steps of the run, got 50 \+ 60"):
        scheduled("wsd", 100, warmup=50, cooldown=60)


@pytest.mark.parametrize("total", [0, -3, 10.0, "10"])
def test_a_run_has_steps(total) -> None:
    with pytest.raises(ValueError, match="total_steps must be a positive number of steps, got"):
        scheduled("cosine", total)


def bound_at_best(rule: str, batch: float, steps: float) -> tuple[float, float]:
    """Best (lr, 1 - beta1) of the bound that the rules come from, over a fine grid."""
    a = np.array([0.1]) if rule == "lmo-fixed-momentum" else np.logspace(-8, 0, 16001)
    lr = np.sqrt(a / steps)  # minimises 1 / (lr K) + lr / a
    value = 1 / (lr * steps) + lr / a + np.sqrt(a / batch)
    return float(lr[value.argmin()]), float(a[value.argmin()])


@pytest.mark.parametrize("rule", ["lmo", "lmo-fixed-momentum"])
@pytest.mark.parametrize(("batch", "tokens"), [((1, 4), (1, 1)), ((2, 2), (1, 9)), ((4, 1), (1, 16))])
def test_transfer_minimises_the_bound(rule: str, batch: tuple, tokens: tuple) -> None:
    scale = 1e7
    before, after = (bound_at_best(rule, b, scale * t / b) for b, t in zip(batch, tokens, strict=True))
    moved = transfer(rule, before[0], (1 - before[1], 0.95), batch=batch, tokens=tokens)
    assert moved.lr == pytest.approx(after[0], rel=5e-3)
    assert 1 - moved.betas[0] == pytest.approx(after[1], rel=5e-3)
    assert math.log(moved.betas[1]) / batch[1] == pytest.approx(math.log(0.95) / batch[0])


def test_transfer_keeps_the_stochastic_dynamics() -> None:
    # Mean and variance of SGD on x^2 / 2 with noise of variance 1 / batch, after a million samples, small steps.
    def sgd(lr: float, batch: float) -> tuple[float, float]:
        return (1 - lr) ** (1e6 / batch), lr / (batch * (2 - lr))

    for k in (0.25, 4.0):
        lr, betas, eps = transfer("sgd", 1e-4, (0.9, 0.99), batch=(32, 32 * k))
        assert sgd(lr, 32 * k) == pytest.approx(sgd(1e-4, 32), rel=1e-3)
        assert ((1 - betas[0]), (1 - betas[1]), eps) == pytest.approx((0.1 * k, 0.01 * k, 1e-8))
        # Sign-like steps: drift lr * sqrt(batch) and variance lr^2 a step, batch samples a step.
        lr, betas, eps = transfer("adam", 1e-3, (0.9, 0.99), batch=(32, 32 * k))
        assert (lr * math.sqrt(32 * k) / (32 * k), lr**2 / (32 * k)) == pytest.approx((1e-3 / math.sqrt(32), 1e-6 / 32))
        assert eps * math.sqrt(32 * k) == pytest.approx(1e-8 * math.sqrt(32))


def test_transfer_there_and_back() -> None:
    for rule in ("sgd", "adam", "lmo", "lmo-fixed-momentum"):
        budget = (3.0, 5.0) if rule.startswith("lmo") else (1.0, 1.0)
        there = transfer(rule, 2e-3, (0.95, 0.99), batch=(64, 128), tokens=budget)
        back = transfer(rule, there.lr, there.betas, there.eps, batch=(128, 64), tokens=budget[::-1])
        assert [back.lr, *back.betas, back.eps] == pytest.approx([2e-3, 0.95, 0.99, 1e-8])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rule": "adamw"}, "did you mean 'adam'"),
        ({"rule": "adam", "tokens": (1, 2)}, "says nothing about the budget"),
        ({"rule": "adam", "batch": (1, 20)}, "no past to average"),
        ({"rule": "lmo", "batch": (0, 1)}, "batch must be two positive numbers"),
        ({"rule": "lmo", "tokens": (1,)}, "tokens must be two positive numbers"),
        ({"rule": "lmo", "betas": (0.9, 1.0)}, "betas in"),
    ],
)
def test_transfer_mistakes(arguments: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        transfer(lr=1e-3, **arguments)
