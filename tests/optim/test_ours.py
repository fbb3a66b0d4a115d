"""What holds for each of our optimizers: torch's generic checks of an optimizer, over our classes."""

import copy
import pickle

import pytest
import torch
from torch import nn

from tests.optim.ours import OURS, LeastSquares, Ours, train

MAXIMIZING = [o for o in OURS if not o.loss and not o.wraps]
OWN = [o for o in OURS if not o.wraps]


def ids(cases):
    return {"argvalues": cases, "ids": [case.name for case in cases]}


def setup(ours: Ours, dtype=torch.float32, strided=False, **kwargs):
    model = LeastSquares(not ours.matrices, dtype, strided)
    return model, ours(list(model.parameters()), **kwargs)


@pytest.mark.parametrize("ours", **ids(OURS))
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("strided", [False, True])
def test_the_loss_falls(ours, dtype, strided):
    model, optimizer = setup(ours, dtype, strided)
    assert model.weight.is_contiguous() is not strided
    losses = train(ours, model, optimizer, 20)
    assert losses[-1] < 0.9 * losses[0]
    assert all(p.dtype == dtype for p in model.parameters())


@pytest.mark.parametrize("ours", **ids(OWN))
def test_one_by_one_and_strided_are_the_same(ours):
    results = []
    for strided, foreach in ((False, True), (True, True), (False, False)):
        if "foreach" not in setup(ours)[1].defaults and not foreach:
            continue
        kwargs = {"weight_decay": 0.1} | ({} if foreach else {"foreach": False})
        model, optimizer = setup(ours, torch.float64, False, **kwargs)
        if strided:
            model = LeastSquares(not ours.matrices, torch.float64)
            for name, p in list(model.named_parameters()):
                setattr(model, name, nn.Parameter(torch.stack([p.detach()] * 2, -1)[..., 0]))
            optimizer = ours(list(model.parameters()), **kwargs)
        train(ours, model, optimizer, 5)
        results.append([p.detach().clone() for p in model.parameters()])
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ours", **ids(OWN))
def test_slices_are_seamless(ours, monkeypatch):
    results = []
    for size in (7, 1 << 16):
        for module in ("base", "matrices"):
            monkeypatch.setattr(f"seqmix.optim.{module}.SLICE", size)
        model, optimizer = setup(ours, torch.float64, weight_decay=0.1)
        train(ours, model, optimizer, 5)
        results.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("ours", **ids(OURS))
@pytest.mark.parametrize("schedule", ["step", "plateau", "one-cycle"])
def test_schedules(ours, schedule):
    lr_scheduler = torch.optim.lr_scheduler
    model, optimizer = setup(ours)
    lr = optimizer.param_groups[0]["lr"]
    made = {
        "step": lambda: lr_scheduler.StepLR(optimizer, 5, 0.5),
        "plateau": lambda: lr_scheduler.ReduceLROnPlateau(optimizer, factor=0.5, patience=0),
        "one-cycle": lambda: lr_scheduler.OneCycleLR(optimizer, lr, total_steps=21, cycle_momentum=False),
    }[schedule]()
    losses = train(ours, model, optimizer, 20, made)
    assert losses[-1] < losses[0]
    if schedule == "step":
        assert optimizer.param_groups[0]["lr"] == pytest.approx(lr * 0.5**4)


@pytest.mark.parametrize("ours", **ids(OURS))
def test_the_rate_of_a_group(ours):
    if ours.name in ("muown", "angular-muown"):
        groups = [nn.Parameter(torch.eye(3)), nn.Parameter(torch.eye(3))]
    else:
        groups = [nn.Parameter(torch.ones(3, 2)), nn.Parameter(torch.ones(3, 2))]
    still, moving = groups
    kwargs = {"sigma": 0.0} if ours.wraps else {}
    optimizer = ours([{"params": [still], "lr": 1e-28}, {"params": [moving]}], **kwargs)
    before = moving.detach().clone()
    for _ in range(3):
        optimizer.zero_grad()
        loss = (still**2).sum() + (moving**2 * torch.arange(1.0, 1 + moving.numel()).view_as(moving)).sum()
        loss.backward()
        ours.step(optimizer, loss)
    assert torch.equal(still, torch.eye(3) if still.shape == (3, 3) else torch.ones(3, 2))
    assert (moving != before).any()
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.zero_grad()
    loss = (still**2).sum()
    loss.backward()
    ours.step(optimizer, loss)
    assert (still != (torch.eye(3) if still.shape == (3, 3) else 1)).any()


@pytest.mark.parametrize("ours", **ids(OURS))
def test_a_tensor_rate_is_a_number(ours):
    results = []
    for lr in (0.02, torch.tensor(0.02)):
        model, optimizer = setup(ours, torch.float64, lr=lr)
        train(ours, model, optimizer, 3)
        results.append([p.detach().clone() for p in model.parameters()])
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("ours", **ids(OURS))
@pytest.mark.parametrize("gradient", ["none", "zero"])
def test_nothing_moves_without_gradients(ours, gradient):
    kwargs = {"sigma": 0.0} if ours.wraps else {}
    model, optimizer = setup(ours, **kwargs)
    before = [p.detach().clone() for p in model.parameters()]
    for _ in range(2):
        for p in model.parameters():
            p.grad = torch.zeros_like(p) if gradient == "zero" else None
        ours.step(optimizer, 1.0)
    for a, b in zip(before, model.parameters(), strict=True):
        torch.testing.assert_close(a, b.detach(), rtol=1e-6, atol=0)
        assert torch.isfinite(b).all()
    if gradient == "none":
        assert all(not state for state in optimizer.state.values())


@pytest.mark.parametrize("ours", **ids(OURS))
def test_weight_decay_shrinks_at_zero_gradient(ours):
    kwargs = {"sigma": 0.0} if ours.wraps else {}
    model, optimizer = setup(ours, torch.float64, lr=0.1, weight_decay=0.5, **kwargs)
    before = model.weight.detach().clone()
    model.weight.grad = torch.zeros_like(model.weight)
    ours.step(optimizer, 1.0)
    factor = 1 / 1.05 if ours.name == "ngn-md-w" else 0.95
    torch.testing.assert_close(model.weight.detach(), factor * before)


@pytest.mark.parametrize("ours", **ids(MAXIMIZING))
def test_maximize_is_minimizing_the_negative(ours):
    results = []
    for sign, maximize in ((1, True), (-1, False)):
        model, optimizer = setup(ours, torch.float64, maximize=maximize)
        for _ in range(5):
            optimizer.zero_grad()
            (sign * model.loss()).backward()
            optimizer.step()
        results.append([p.detach().clone() for p in model.parameters()])
        assert model.loss() > LeastSquares(not ours.matrices, torch.float64).loss()
    for a, b in zip(*results, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("ours", **ids([o for o in OURS if o.loss]))
def test_ngn_cannot_climb(ours):
    with pytest.raises(TypeError, match="maximize"):
        setup(ours, maximize=True)


@pytest.mark.parametrize("ours", **ids(OURS))
@pytest.mark.parametrize("route", ["state_dict", "file", "deepcopy", "pickle"])
def test_goes_on_where_it_was(ours, route, tmp_path):
    model, optimizer = setup(ours, weight_decay=0.01)
    train(ours, model, optimizer, 10)
    optimizer.param_groups[0]["lr"] *= 0.5
    if route in ("deepcopy", "pickle"):
        pair = (model, optimizer)
        other, again = copy.deepcopy(pair) if route == "deepcopy" else pickle.loads(pickle.dumps(pair))
    else:
        state = copy.deepcopy(optimizer.state_dict())
        kept = copy.deepcopy(state)
        if route == "file":
            torch.save(state, tmp_path / "state.pt")
            state = torch.load(tmp_path / "state.pt", weights_only=True)
        other = copy.deepcopy(model)
        again = ours(list(other.parameters()))
        again.load_state_dict(state)
        assert str(state) == str(kept)
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]
    assert train(ours, model, optimizer, 10) == train(ours, other, again, 10)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
    assert repr(again).startswith(type(optimizer).__name__)


@pytest.mark.parametrize("ours", **ids(OURS))
def test_the_same_twice(ours):
    runs = []
    for _ in range(2):
        model, optimizer = setup(ours)
        runs.append(train(ours, model, optimizer, 5))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("ours", **ids(OURS))
def test_a_group_that_comes_later(ours):
    model, optimizer = setup(ours)
    train(ours, model, optimizer, 2)
    late = nn.Parameter(torch.eye(3))
    optimizer.add_param_group({"params": [late]})
    optimizer.zero_grad()
    loss = (late * torch.arange(9.0).view(3, 3)).square().sum()
    loss.backward()
    ours.step(optimizer, loss)
    assert (late != torch.eye(3)).any() and len(optimizer.param_groups) == 2


@pytest.mark.parametrize("ours", **ids([o for o in OURS if not o.matrices]))
def test_shapes(ours):
    shapes = [(), (0,), (3,), (2, 3, 4), (1, 1)]
    params = [nn.Parameter(torch.ones(shape)) for shape in shapes]
    optimizer = ours(params)
    loss = sum((p**2).sum() for p in params)
    loss.backward()
    ours.step(optimizer, loss)
    assert all((p != 1).all() and p.shape == shape for p, shape in zip(params, shapes, strict=True))


@pytest.mark.parametrize("ours", **ids(OURS))
def test_closures_run_once_with_gradients(ours):
    model, optimizer = setup(ours)
    calls = []

    def closure():
        optimizer.zero_grad()
        loss = model.loss()
        loss.backward()
        calls.append(loss)
        return loss

    with torch.no_grad():
        assert optimizer.step(closure) is calls[0]
    assert len(calls) == 1


BAD = [
    ({"lr": -1.0}, "lr must be at least 0, got -1.0"),
    ({"lr": float("nan")}, "lr must be at least 0, got nan"),
    ({"lr": torch.tensor([1.0, 2.0])}, "a tensor lr must have one element"),
    ({"weight_decay": -0.1}, "weight_decay must be at least 0, got -0.1"),
    ({"betas": (1.0, 0.9)}, r"betas must be in \[0, 1\), got \(1.0, 0.9\)"),
    ({"betas": (0.9, -0.1)}, r"betas must be in \[0, 1\)"),
    ({"betas": (0.9,)}, "betas must be two numbers"),
    ({"beta": 1.0}, r"beta must be in \[0, 1\), got 1.0"),
    ({"momentum": 1.0}, r"momentum must be in \[0, 1\), got 1.0"),
    ({"eps": -1e-8}, "eps must be at least 0"),
    ({"decay": "none"}, "decay must be 'decoupled' or 'model', got 'none'"),
    ({"lower_bound": float("nan")}, "lower_bound must be a finite number"),
    ({"method": "qr"}, "method must be one of newton-schulz, polar-express, polar-express-published, svd, got 'qr'"),
    ({"precision": "int8"}, "precision must be one of bfloat16"),
    ({"steps": 100}, "steps must be a whole number from 1 to 99, got 100"),
    ({"row_blocks": 3}, "row_blocks must be a divisor of 5 rows"),
    ({"row_blocks": (2, 2)}, r"sizes that add up to it, got \(2, 2\)"),
    ({"norm": "l1"}, "norm must be one of l2, l_inf, spectral, got 'l1'"),
    ({"radius": -1.0}, "radius must be at least 0"),
    ({"lr": 1.5, "constrained": True}, r"lr must be at most 1 to stay inside the ball \(constrained\), got 1.5"),
    ({"scale": "max"}, "scale must be 'spectral' or 'rms'"),
    ({"warmup": -1}, "warmup must be at least 0"),
]


def bad_values():
    for ours in OWN:
        known = setup(ours)[1].defaults
        hidden = {"momentum"} if ours.name == "ngn" else set() if ours.matrices else {"row_blocks"}
        for kwargs, message in BAD:
            if kwargs.keys() <= known.keys() - hidden:
                yield pytest.param(ours, kwargs, message, id=f"{ours.name}-{kwargs}")


@pytest.mark.parametrize(("ours", "kwargs", "message"), list(bad_values()))
def test_bad_values_are_named(ours, kwargs, message):
    optimizer = setup(ours)[1]
    with pytest.raises(ValueError, match=f"{type(optimizer).__name__}: .*{message}"):
        setup(ours, **kwargs)
    if "lower_bound" not in kwargs:
        late = nn.Parameter(torch.ones(5, 5))
        with pytest.raises(ValueError, match=message):
            optimizer.add_param_group({"params": [late], **kwargs})
        assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("ours", **ids(OWN))
def test_what_cannot_be_taken(ours):
    with pytest.raises(ValueError, match="parameters must be real"):
        ours([nn.Parameter(torch.ones(2, 2, dtype=torch.complex64))])
    with pytest.raises(ValueError, match="more than one parameter group"):
        p = nn.Parameter(torch.ones(2, 2))
        ours([{"params": [p]}, {"params": [p]}])
    with pytest.raises(TypeError, match="can only optimize Tensors"):
        ours([1.0])
    table = nn.Embedding(3, 2, sparse=True)
    before = table.weight.detach().clone()
    optimizer = ours(table.parameters())
    table(torch.tensor([1])).sum().backward()
    with pytest.raises(ValueError, match="gradients must be dense"):
        ours.step(optimizer, 1.0)
    assert torch.equal(before, table.weight)


@pytest.mark.parametrize("ours", **ids([o for o in OURS if o.matrices]))
@pytest.mark.parametrize("shape", [(3,), (), (2, 3, 4)])
def test_matrix_optimizers_take_matrices(ours, shape):
    with pytest.raises(ValueError, match="two axes, got gain of shape"):
        ours([("gain", nn.Parameter(torch.ones(shape)))])


@pytest.mark.parametrize("ours", **ids(OWN))
def test_no_step_reads_from_the_device(ours):
    # meta tensors have no values: whatever asks for one raises
    shape = (6, 5)
    real, p = nn.Parameter(torch.ones(shape)), nn.Parameter(torch.ones(shape, device="meta"))
    optimizer = ours([p], weight_decay=0.1)
    if ours.matrices and "muown" in ours.name:  # looks once for rows of zeros, before its first step
        begun = ours([real])
        begun._begin(real, begun.param_groups[0])
        optimizer.state[p] |= {
            key: value.to("meta") if isinstance(value, torch.Tensor) and value.dim() else value
            for key, value in begun.state[real].items()
        }
    for _ in range(2):
        p.grad = torch.ones(shape, device="meta")
        ours.step(optimizer, torch.ones((), device="meta"))


@pytest.mark.parametrize("ours", **ids(OWN))
def test_half_precision_neither_stalls_nor_breaks(ours):
    # norms above 256, whose square float16 does not hold; a row without gradient, where eps is less than it holds
    p = nn.Parameter(torch.linspace(-1, 1, 30).view(6, 5).half())
    optimizer, before = ours([p]), p.detach().clone()
    stream = torch.Generator().manual_seed(0)
    for _ in range(3):
        p.grad = (50 * torch.randn(6, 5, generator=stream)).half()
        p.grad[2] = 0
        ours.step(optimizer, torch.tensor(1e4))
    assert torch.isfinite(p).all() and (p != before).any(1).tolist().count(True) >= 5


NUMBERS = {"ngn": 0, "ngn-md": 60, "ngn-md-w": 60, "tied-adam": 60, "tied-adam-corrected": 60}
NUMBERS |= {
    "muown": 30 + 4 * 6,
    "angular-muown": 30 + 4 * 6,
    "anti-pgd": 60,
    "layer-noise": 60,
    "fractional-pgd": 30 + 3 * 30,
}


@pytest.mark.parametrize("ours", **ids(OURS))
def test_memory_is_what_the_documentation_says(ours):
    p = nn.Parameter(torch.ones(6, 5))
    optimizer = ours([p])
    for _ in range(2):
        p.grad = torch.ones(6, 5)
        ours.step(optimizer, 1.0)
    found = sum(t.numel() for t in optimizer.state[p].values() if isinstance(t, torch.Tensor) and t.dim())
    assert found == NUMBERS.get(ours.name, 30)
