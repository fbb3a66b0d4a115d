"""Optimizers by name: every entry steps, matrices and the rest are told apart, mistakes are named."""

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import nn

from seqmix.models import SequenceModel
from seqmix.optim import Combined, create_optimizer, describe_parameters, get_optimizer, list_optimizers
from seqmix.optim.registry import WHOLE, check_optimizer, check_shards

REQUIRED = {"ranger21": {"num_iterations": 100}}
ADJUSTED = {"dadaptadam": {"lr": 0.3}}  # its own rate is too large for this problem
CREATED = [name for name in list_optimizers() if get_optimizer(name).library != "none"]


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 4))


def problem(model):
    torch.manual_seed(1)
    x, y = torch.randn(32, 6), torch.randn(32, 4)
    return lambda: (model(x) - y).square().mean()


@pytest.mark.parametrize("name", [name for name in CREATED if name != "sparseadam"])
def test_every_optimizer_lowers_a_loss(name):
    entry, model = get_optimizer(name), network()
    optimizer = create_optimizer(name, model, **REQUIRED.get(name, {}), **ADJUSTED.get(name, {}))
    loss = problem(model)
    if "train()" in entry.needs:
        optimizer.train()

    def closure():
        optimizer.zero_grad()
        value = loss()
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Using backward.. with create_graph")
            value.backward(create_graph=entry.needs == "second derivatives")
        return value

    before = loss().item()
    for _ in range(30):
        optimizer.step(closure)
    if "train()" in entry.needs:
        optimizer.eval()
    assert loss().item() < before, optimizer


def test_sparse_adam():
    embedding = nn.Embedding(5, 3, sparse=True)
    before = embedding.weight.detach().clone()
    optimizer = create_optimizer("sparseadam", embedding, lr=0.1)
    embedding(torch.tensor([1])).sum().backward()
    optimizer.step()
    assert (embedding.weight != before).any(1).tolist() == [False, True, False, False, False]


def test_the_catalogue_is_what_the_libraries_have():
    from pytorch_optimizer import optimizer as library

    from seqmix.optim import catalogue

    classes = {name for name in library.__all__ if isinstance(getattr(library, name), type)}
    tools = {"DynamicLossScaler", "SafeFP16Optimizer", "RotoGrad"}
    assert classes - set(catalogue.TORCH) - {"AdamW"} == set(catalogue.LIBRARY) - set(catalogue.TORCH) | tools
    assert set(catalogue.UNFIT) | set(catalogue.WRAPPERS) | set(catalogue.ADAPTED) <= set(catalogue.LIBRARY)
    torch_has = {name for name in torch.optim.__all__ if isinstance(getattr(torch.optim, name), type)}
    assert torch_has - {"Optimizer", "AdamW"} == set(catalogue.TORCH)


def test_listing():
    assert {"adam", "adamw", "muon"} <= set(list_optimizers(library="torch"))
    assert {"lion", "soap", "shampoo", "adopt", "ademamix", "mars", "laprop", "adammini", "prodigy"} <= set(CREATED)
    assert {"dog", "momo", "ivon", "lomo", "frugal", "hyperball", "soap-muon"} <= set(list_optimizers(library="none"))
    assert {"cautious-decay", "critical-momenta"} <= set(list_optimizers(library="none"))
    assert list_optimizers("schedulefree*") == [
        "schedulefreeadamw",
        "schedulefreeradam",
        "schedulefreesgd",
        "schedulefreewrapper",
    ]
    assert "in no library" in get_optimizer("dog").line and "AdamW the rest" in get_optimizer("muon").line
    with pytest.raises(ValueError, match="did you mean 'adammini'"):
        get_optimizer("adam-mini")
    with pytest.raises(ValueError, match="unknown library 'po'"):
        list_optimizers(library="po")


def test_nothing_heavy_is_imported():
    code = "import sys, seqmix.optim as o; o.list_optimizers(); o.get_optimizer('soap').line; " + (
        "print(sorted({'pytorch_optimizer', 'lightning', 'numba'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_matrices_and_the_rest():
    model = SequenceModel("mamba", 7, 8, 1)
    facts = {fact.name: (fact.kind, fact.reason) for fact in describe_parameters(model)}
    assert facts["embedding.weight"] == ("rest", "embedding") and facts["head.weight"] == ("rest", "head")
    assert facts["blocks.0.mixer.A_log"] == ("rest", "declared by Mamba")
    assert facts["blocks.0.mixer.in_proj.weight"] == ("matrix", "two axes")
    optimizer = create_optimizer("muon", model, lr=1e-3, weight_decay=0.1)
    names = {id(fact.parameter): fact.name for fact in describe_parameters(model)}
    taken = {names[id(p)] for p in optimizer.parts["muon"].state or optimizer.param_groups[0]["params"]}
    assert taken == {name for name, (kind, _) in facts.items() if kind == "matrix"}
    over = describe_parameters(model, matrices=r"^head\.", rest="in_proj")
    kinds = {fact.name: fact.kind for fact in over}
    assert kinds["head.weight"] == "matrix" and kinds["blocks.0.mixer.in_proj.weight"] == "rest"


def test_muon_has_two_scales_and_says_which():
    """Of a square matrix of n rows the published Muon moves singular values by lr, Moonlight's by lr 0.2 sqrt(n)."""
    moved = {}
    for name in ("muon", "muon-original"):
        layer = nn.Linear(64, 64, bias=False)
        optimizer = create_optimizer(name, layer, lr=0.01, weight_decay=0.0)
        before = layer.weight.detach().clone()
        layer.weight.grad = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
        optimizer.step()
        moved[name] = (layer.weight.detach() - before).norm().item()
    assert moved["muon"] / moved["muon-original"] == pytest.approx(0.2 * 64**0.5, rel=1e-2)
    assert "adjust_lr_fn=match_rms_adamw unless given" in get_optimizer("muon").line
    assert "use_adjusted_lr=True unless given" in get_optimizer("adamuon").line


def test_tied_head_is_no_matrix():
    model = SequenceModel("lstm", 7, 8, 1, tie_embeddings=True)
    facts = describe_parameters(model)
    assert [fact.reason for fact in facts if fact.parameter is model.embedding.weight] == ["embedding"]


def test_rest_has_its_own_rates():
    optimizer = create_optimizer("muon", network(), lr=0.02, weight_decay=0.1, adamw={"lr": 1e-3, "betas": [0.9, 0.95]})
    rates = {(group["part"], group["kind"], group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    assert rates == {("muon", "matrix", 0.02, 0.1), ("adamw", "rest", 1e-3, 0.0)}
    assert optimizer.parts["adamw"].param_groups[0]["betas"] == (0.9, 0.95)


def run(model, optimizer, steps):
    loss = problem(model)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    for _ in range(steps):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
        schedule.step()
    return [p.detach().clone() for p in model.parameters()]


def test_combined_is_its_parts():
    model, other = network(), network()
    together = run(model, create_optimizer("muon", model, lr=0.05, weight_decay=0.1), 5)
    matrices = [p for p in other.parameters() if p.ndim == 2]
    parts = {
        "a": torch.optim.Muon(matrices, lr=0.05, weight_decay=0.1, adjust_lr_fn="match_rms_adamw"),
        "b": torch.optim.AdamW([p for p in other.parameters() if p.ndim != 2], lr=0.05, weight_decay=0, fused=True),
    }
    loss = problem(other)
    schedules = [torch.optim.lr_scheduler.LambdaLR(part, lambda step: 1 / (1 + step)) for part in parts.values()]
    for _ in range(5):
        for part in parts.values():
            part.zero_grad()
        loss().backward()
        for part, schedule in zip(parts.values(), schedules, strict=True):
            part.step()
            schedule.step()
    for a, b in zip(together, other.parameters(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("route", ["state_dict", "deepcopy", "pickle"])
def test_combined_goes_on_where_it_was(route, tmp_path):
    model = network()
    optimizer = create_optimizer("muon", model, lr=0.05)
    run(model, optimizer, 3)
    if route == "state_dict":
        other = copy.deepcopy(model)
        again = create_optimizer("muon", other, lr=0.3)
        torch.save(optimizer.state_dict(), tmp_path / "state.pt")
        again.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    else:
        pair = (model, optimizer)
        other, again = copy.deepcopy(pair) if route == "deepcopy" else pickle.loads(pickle.dumps(pair))
    for name, part in again.parts.items():
        assert part.state is again.state and all(
            a is b for a, b in zip(part.param_groups, (g for g in again.param_groups if g["part"] == name), strict=True)
        )
    expected = run(model, optimizer, 3)
    for a, b in zip(expected, run(other, again, 3), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("name", [n for n in CREATED if get_optimizer(n).takes == "optimizer"])
def test_wrappers_around_combined_go_on_where_they_were(name):
    def run(model, optimizer):
        loss = problem(model)

        def closure():
            optimizer.zero_grad()
            value = loss()
            value.backward()
            return value

        for _ in range(3):
            optimizer.step(closure)
        return [p.detach().clone() for p in model.parameters()]

    models, optimizers = [network(), network()], []
    for model in models:
        optimizers.append(create_optimizer(name, model, base="muon", lr=0.05))
        if "train()" in get_optimizer(name).needs:
            optimizers[-1].train()
    run(models[0], optimizers[0])
    models[1].load_state_dict(models[0].state_dict())
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    for a, b in zip(*map(run, models, optimizers), strict=True):
        assert torch.equal(a, b)


def test_combined_takes_groups_later():
    optimizer = create_optimizer("muon", network(), lr=0.05)
    vector, matrix = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3, 2))
    optimizer.add_param_group({"params": [vector]})
    optimizer.add_param_group({"params": [matrix], "part": "muon"})
    assert [group["part"] for group in optimizer.param_groups[-2:]] == ["adamw", "muon"]
    vector.grad, matrix.grad = torch.ones(3), torch.ones(3, 2)
    optimizer.step()
    assert (vector != 1).all() and (matrix != 1).all()
    with pytest.raises(ValueError, match="part must be one of muon, adamw, got 'sgd'"):
        optimizer.add_param_group({"params": [nn.Parameter(torch.ones(1))], "part": "sgd"})


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: create_optimizer("muno", network()), ValueError, "unknown optimizer 'muno'; did you mean 'muon'"),
        (
            lambda: create_optimizer("lion", network(), beta=1),
            ValueError,
            "of optimizer 'lion': 'beta'.*betas",
        ),
        (lambda: create_optimizer("lion", network(), lr="1"), ValueError, "lr must be a number, got '1'"),
        (lambda: create_optimizer("ranger21", network()), ValueError, "needs the argument num_iterations"),
        (lambda: create_optimizer("dog", network()), NotImplementedError, "in no library"),
        (lambda: create_optimizer("lomo", network()), NotImplementedError, "inside its own backward pass"),
        (lambda: create_optimizer("muon", nn.LayerNorm(3)), ValueError, "no matrices, see: seqmix list parameters"),
        (lambda: create_optimizer("muon", network(), matrices="("), ValueError, "must be a regular expression"),
        (lambda: create_optimizer("muon", network(), matrices="bias"), ValueError, "two axes, 0.bias of shape"),
        (lambda: create_optimizer("muon", network(), rest="lstm"), ValueError, "'lstm' finds none of 0.weight"),
        (lambda: create_optimizer("muon", network(), adamw={"beta": 1}), ValueError, "argument of optimizer 'adamw'"),
        (lambda: create_optimizer("adammini", [{"params": []}]), ValueError, "takes a model, got list"),
        (lambda: create_optimizer("sam", network(), base="lookahead"), ValueError, "base must be no wrapper"),
        (lambda: create_optimizer("anti-pgd", network(), base="schedulefreesgd"), ValueError, "not be schedule-free"),
        (
            lambda: create_optimizer("sam", network(), base={"lr": 1}),
            ValueError,
            "base must be the name of an optimizer",
        ),
        (lambda: create_optimizer("muown", [nn.Parameter(torch.ones(2, 2))]), ValueError, "list of parameter groups"),
        (lambda: create_optimizer("adamw", network().parameters()), ValueError, "groups, got generator"),
        (lambda: create_optimizer("sam", network(), base="ngn-m"), ValueError, "base must step without the loss"),
        (lambda: create_optimizer("schedulefreewrapper", network(), base="lbfgs"), ValueError, "without the loss"),
        (
            lambda: create_optimizer("muown", [{"params": [nn.Parameter(torch.ones(2, 2))]}], fused={"qkv": 3}),
            ValueError,
            "optimizer 'muown': fused need a module",
        ),
        (lambda: create_optimizer("sam", network()).step(), ValueError, "SAM: step needs a closure"),
        (
            lambda: check_optimizer("lookahead", base={"name": "sgd", "betas": 1}),
            ValueError,
            "optimizer 'sgd': 'betas'",
        ),
        (lambda: Combined({}), ValueError, "at least one optimizer"),
    ],
)
def test_mistakes_are_named(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_rates_and_decay_of_an_optimizer_that_takes_the_model():
    model = SequenceModel("lru", 7, 8, 1)
    optimizer = create_optimizer("adammini", model, lr=0.02, weight_decay=0.1)
    given = {id(group["params"][0]): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups}
    facts = describe_parameters(model)
    assert {fact.factor for fact in facts} > {1.0} and {fact.decays for fact in facts} == {True, False}
    for fact in facts:
        assert given[id(fact.parameter)] == (0.02 * fact.factor, 0.1 if fact.decays else 0.0), fact.name


def test_fused_adamw_leaves_unscaling_to_the_scaler():
    found = []
    for scaled in (False, True):
        model = network()
        optimizer, loss = create_optimizer("adamw", model, lr=0.01), problem(model)
        assert optimizer.param_groups[0]["fused"]
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, enabled=scaled)
        for _ in range(3):
            optimizer.zero_grad()
            scaler.scale(loss()).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            scaler.step(optimizer)
            scaler.update()
        found.append([p.detach() for p in model.parameters()])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b)


def test_wrappers_hand_rates_to_their_base():
    optimizer = create_optimizer("lookahead", network(), lr=0.5, base={"name": "sgd", "momentum": 0.9}, k=3)
    assert {(g["lr"], g["momentum"]) for g in optimizer.param_groups} == {(0.5, 0.9)} and optimizer.k == 3


def test_sam_climbs_and_returns():
    weights = {}
    for rho in (0.0, 0.1):
        model = network()
        optimizer = create_optimizer("sam", model, lr=0.1, rho=rho, base="sgd")
        loss = problem(model)
        before = [p.detach().clone() for p in model.parameters()]
        seen = []

        def closure(optimizer=optimizer, loss=loss, model=model, seen=seen):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            seen.append([p.detach().clone() for p in model.parameters()])
            return value

        optimizer.step(closure)
        climbed = sum((a - b).square().sum() for a, b in zip(seen[1], before, strict=True)).sqrt()
        torch.testing.assert_close(climbed, torch.tensor(rho), rtol=1e-4, atol=1e-7)
        weights[rho] = (before, [p.detach().clone() for p in model.parameters()], [p.grad for p in model.parameters()])
    before, after, gradients = weights[0.1]
    for a, b, g in zip(before, after, gradients, strict=True):
        torch.testing.assert_close(a - 0.1 * g, b)
    plain = network()
    problem(plain)().backward()
    for p, q in zip(plain.parameters(), weights[0.0][1], strict=True):
        torch.testing.assert_close(p - 0.1 * p.grad, q)


def test_what_takes_whole_matrices_apart_is_refused_for_shards() -> None:
    assert set(WHOLE) <= set(CREATED)
    for name in (*WHOLE, "muon", "muon-original", "po-muon"):
        with pytest.raises(ValueError, match=f"optimizer '{name}': takes whole matrices apart"):
            check_shards(name)
    with pytest.raises(ValueError, match="optimizer 'soap': takes whole matrices apart"):
        check_shards("lookahead", base="soap")
    for name in CREATED:
        if get_optimizer(name).library == "seqmix" and get_optimizer(name).takes != "optimizer":
            check_shards(name)
    check_shards("adamw", lr=1e-3)
