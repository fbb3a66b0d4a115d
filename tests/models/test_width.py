"""muP: what is hidden, what reads out, and that a step moves a wide model as far as a narrow one."""

import inspect

import pytest
import torch
from torch.nn import functional as F

from seqmix import SequenceModel, list_mixers
from seqmix.mixers import create_mixer
from seqmix.optim import create_optimizer, list_optimizers, parameter_groups
from seqmix.optim.create import WIDTH

WIDTHS = (32, 256)


def rates(model):
    found = {}
    for group in parameter_groups(model, lr=1.0, weight_decay=0.0):
        found |= {id(p): group["lr"] for p in group["params"]}
    return {name: found[id(p)] for name, p in model.named_parameters()}


def test_what_is_what():
    model = SequenceModel("bd-lru", 7, 64, parametrization="mup", base_width=16)
    found = rates(model)
    assert found["embedding.weight"] == 1 and found["head.weight"] == 1 / 4
    assert found["blocks.0.mlp.down_proj.weight"] == pytest.approx(16 / 64, rel=0.1)  # hidden widths come in eights
    assert found["blocks.0.mixer.proj_out.weight"] == 1 / 4 and found["norm.weight"] == 1
    lru = SequenceModel("lru", 7, 64, parametrization="mup", base_width=16)
    assert rates(lru)["blocks.0.mixer.nu_log"] == rates(SequenceModel("lru", 7, 64))["blocks.0.mixer.nu_log"]


def test_starts_grow_from_the_base():
    torch.manual_seed(0)
    narrow = SequenceModel("gla", 50, 64)
    torch.manual_seed(0)
    same = SequenceModel("gla", 50, 64, parametrization="mup", base_width=64)
    assert all(torch.equal(a, b) for a, b in zip(narrow.parameters(), same.parameters(), strict=True))
    wide = SequenceModel("gla", 50, 256, parametrization="mup", base_width=64).requires_grad_(False)
    assert wide.head.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)  # a read-out
    assert wide.blocks[0].mlp.gate_up_proj.weight.std().item() == pytest.approx(0.02 / 2, rel=0.05)  # hidden
    assert wide.embedding.weight.std().item() == pytest.approx(0.02, rel=0.05)


def test_the_draws_of_others_stay_as_they_are():
    torch.manual_seed(0)
    SequenceModel("lru", 5, 16)
    expected = torch.rand(3)
    torch.manual_seed(0)
    SequenceModel("lru", 5, 16, parametrization="mup", base_width=8)
    assert torch.equal(torch.rand(3), expected)


@pytest.mark.parametrize(("name", "power"), [("muown", 0.5), ("muon", 0.5), ("muon-original", 0.0), ("adamw", 1.0)])
def test_rates_of_matrices_follow_the_norm_of_their_steps(name, power):
    model = SequenceModel("bd-lru", 7, 64, parametrization="mup", base_width=16)
    optimizer = create_optimizer(name, model, lr=1.0)
    hidden = model.blocks[0].mixer.proj_out.weight
    (rate,) = (g["lr"] for g in optimizer.param_groups if any(p is hidden for p in g["params"]))
    (head,) = (g["lr"] for g in optimizer.param_groups if any(p is model.head.weight for p in g["params"]))
    assert rate == pytest.approx(0.25**power) and head == 0.25


def test_optimizers_without_a_rule_are_refused():
    model = SequenceModel("bd-lru", 7, 64, parametrization="mup", base_width=16)
    with pytest.raises(
        ValueError, match="optimizer 'sgd': has no rule for parametrization 'mup'; these have one: adamw"
    ):
        create_optimizer("sgd", model, lr=1.0)
    assert set(WIDTH) <= set(list_optimizers())
    create_optimizer("anti-pgd", model, base="adamw", lr=1.0)


@pytest.mark.parametrize("mixer", list_mixers())
def test_vectors_stay_as_they_are(mixer):
    """Mixes of tokens, biases, decays, filters: stored as vectors or as several, they are no fan-in's."""
    torch.manual_seed(0)
    plain = dict(SequenceModel(mixer, 7, 64).named_parameters())
    torch.manual_seed(0)
    model = SequenceModel(mixer, 7, 64, parametrization="mup", base_width=32)
    changed = {name for name, p in model.named_parameters() if not torch.equal(p, plain[name])}
    scaled = {name for name, rate in rates(model).items() if rate != rates(SequenceModel(mixer, 7, 64))[name]}
    base = dict(SequenceModel(mixer, 7, 32).named_parameters())
    for name in changed | scaled:
        grown = sum(a != b for a, b in zip(plain[name].shape, base[name].shape, strict=True))
        linear = isinstance(model.get_submodule(name.rpartition(".")[0]), torch.nn.Linear)
        assert grown > 1 or linear, f"{name} {tuple(plain[name].shape)} is scaled"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"parametrization": "ntk"}, "parametrization must be one of standard, mup"),
        ({"mixer": {"name": "attention", "n_heads": 16}, "parametrization": "mup", "base_width": 8}, "base_width 8: "),
        ({"parametrization": "mup", "base_width": 0}, "base_width must be a positive integer"),
        ({"parametrization": "mup", "tie_embeddings": True}, "needs a head of its own"),
    ],
)
def test_mistakes_are_told(arguments, message):
    with pytest.raises(ValueError, match=message):
        SequenceModel(**{"mixer": "lru", "vocab_size": 7, "d_model": 16, **arguments})


def moved(mixer, width, parametrization, steps=4):
    """How far a few steps of Adam move what the head sees and the logits, root mean squares."""
    torch.manual_seed(0)
    takes = inspect.signature(type(create_mixer(mixer, 32))).parameters
    heads = {"n_heads": width // 16} if "n_heads" in takes else {}
    model = SequenceModel({"name": mixer, **heads}, 20, width, 2, parametrization=parametrization, base_width=WIDTHS[0])
    tokens = torch.randint(20, (4, 17), generator=torch.Generator().manual_seed(1))
    optimizer = create_optimizer("adamw", model, lr=1e-2, weight_decay=0.0)
    with torch.no_grad():
        before = model.features(tokens)[0], model(tokens)[0]
    for _ in range(steps):
        optimizer.zero_grad()
        F.cross_entropy(model(tokens[:, :-1])[0].flatten(0, 1), tokens[:, 1:].flatten()).backward()
        optimizer.step()
    with torch.no_grad():
        after = model.features(tokens)[0], model(tokens)[0]
    return [float((a - b).square().mean().sqrt()) for a, b in zip(after, before, strict=True)]


@pytest.mark.parametrize(
    "mixer",
    [m if m in ("bd-lru", "attention") else pytest.param(m, marks=pytest.mark.slow) for m in list_mixers()],
)
def test_steps_move_wide_models_as_far_as_narrow_ones(mixer):
    """Eight times as wide: logits move about as far; in the standard parametrisation several times as far."""
    (_, narrow), (_, wide) = (moved(mixer, width, "mup") for width in WIDTHS)
    (_, plain), (_, far) = (moved(mixer, width, "standard") for width in WIDTHS)
    assert 0.4 < wide / narrow < 2.0
    assert far / plain > 1.3 * wide / narrow
