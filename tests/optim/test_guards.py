"""What every optimizer of the registry keeps: rate 0 and no gradients move nothing, states are read without pickles."""

import io
import warnings

import pytest
import torch
from lightning import seed_everything
from torch import nn

from seqmix.optim import create_optimizer, get_optimizer
from tests.optim.test_registry import ADJUSTED, CREATED, REQUIRED, network, problem

DENSE = [name for name in CREATED if name != "sparseadam"]
RATELESS = ("a2grad", "alig", "po-asgd")  # they have none, or set it themselves
LATE = {"adashift": 10, "po-radam": 6, "schedulefreeradam": 6}  # steps before the first that moves something
REFUSE_NOTHING = ("adai", "adams", "ranger21")  # they raise where no parameter has a gradient


def start(name):
    """A model, its optimizer and what takes steps of it."""
    entry, model = get_optimizer(name), network()
    optimizer = create_optimizer(name, model, **REQUIRED.get(name, {}), **ADJUSTED.get(name, {}))
    if "train()" in entry.needs:
        optimizer.train()
    loss = problem(model)

    def closure():
        optimizer.zero_grad()
        value = loss()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using backward.. with create_graph")
            value.backward(create_graph=entry.needs == "second derivatives")
        return value

    def steps(n):
        seed_everything(2, verbose=False)  # some draw, of torch or of numpy
        for _ in range(n):
            optimizer.step(closure)
        return [p.detach().clone() for p in model.parameters()]

    return model, optimizer, steps


def unmoved(model, before):
    return all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


@pytest.mark.parametrize("name", [name for name in DENSE if name not in RATELESS])
def test_rate_zero_moves_nothing(name):
    """Before the first step, where a distributed checkpoint takes one to make the state, and later."""
    for taken in (0, 3):
        model, optimizer, steps = start(name)
        before = steps(taken)
        rates = [group["lr"] for group in optimizer.param_groups]
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        steps(2)
        assert unmoved(model, before)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        assert all(p.isfinite().all() for p in steps(2 + LATE.get(name, 0))) and not unmoved(model, before)


@pytest.mark.parametrize("name", DENSE)
def test_nothing_moves_without_gradients(name):
    model, optimizer, steps = start(name)
    before = steps(3)
    optimizer.zero_grad()
    for p in model.parameters():
        p.grad = None
    if name in REFUSE_NOTHING:
        with pytest.raises(Exception, match="parameter size is 0"):
            optimizer.step()
    else:
        optimizer.step(lambda: torch.tensor(1.0))
    assert unmoved(model, before)


@pytest.mark.parametrize("name", DENSE)
def test_every_state_goes_on_where_it_was(name):
    """Through a file that holds tensors and plain values."""
    model, optimizer, steps = start(name)
    steps(4 + LATE.get(name, 0))
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    other, again, steps_again = start(name)
    other.load_state_dict(saved["model"])
    again.load_state_dict(saved["optimizer"])
    for a, b in zip(steps(3), steps_again(3), strict=True):
        assert torch.equal(a, b)


def test_objects_of_a_state_are_those_of_the_library():
    _, optimizer, steps = start("conda")
    steps(2)
    saved = optimizer.state_dict()
    saved["state"][0]["projector"]["object of"] = "subprocess:Popen"
    with pytest.raises(ValueError, match="must be of classes of pytorch_optimizer, got 'subprocess:Popen'"):
        optimizer.load_state_dict(saved)


@pytest.mark.parametrize("name", ["anti-pgd", "fractional-pgd", "layer-noise"])
def test_a_checkpoint_has_a_place_for_noise(name):
    """At rate 0 a new optimizer makes all the state that a checkpoint is loaded into."""
    layer = nn.Linear(3, 2)
    optimizer = create_optimizer(name, layer, lr=0.0)
    for p in layer.parameters():
        p.grad = torch.zeros_like(p)
    before = [p.detach().clone() for p in layer.parameters()]
    optimizer.step()
    assert unmoved(layer, before)
    key = "increments" if name == "fractional-pgd" else "noise"
    assert all(not optimizer.state[p][key].any() for p in layer.parameters())
