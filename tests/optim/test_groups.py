"""Parameter groups: a partition that follows the modules' declarations."""

import copy

import pytest
import torch
from torch import nn

from seqmix.models import SequenceModel
from seqmix.optim import parameter_groups


class Gate(nn.Module):
    _no_weight_decay = ("matrix",)

    def __init__(self, **scales):
        super().__init__()
        self._lr_scale = scales
        self.matrix = nn.Parameter(torch.zeros(2, 2))
        self.other = nn.Parameter(torch.zeros(2, 2))
        self.gate_bias = nn.Parameter(torch.zeros(2, 2))
        self.register_parameter("absent", None)


def by_parameter(model, **kwargs):
    groups = parameter_groups(model, **{"lr": 1.0, "weight_decay": 0.1, **kwargs})
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)]: group for group in groups for p in group["params"]}


def test_declarations():
    groups = by_parameter(nn.Sequential(Gate(other=0.1, gate_bias=0.1, absent=3), nn.Linear(2, 2)), lr=0.5)
    found = {key: (group["name"], group["lr"], group["weight_decay"]) for key, group in groups.items()}
    assert found == {
        "0.matrix": ("no decay", 0.5, 0.0),
        "0.other": ("decay, lr x 0.1", 0.05, 0.1),
        "0.gate_bias": ("no decay, lr x 0.1", 0.05, 0.0),
        "1.weight": ("decay", 0.5, 0.1),
        "1.bias": ("no decay", 0.5, 0.0),
    }


def test_norms_embeddings_and_frozen_parameters():
    model = SequenceModel("lstm", 7, 8, 2)
    model.head.weight.requires_grad_(False)
    groups = by_parameter(model)
    assert "head.weight" not in groups
    assert {key for key, group in groups.items() if group["weight_decay"]} == {
        f"blocks.{i}.{key}.weight".replace("_hh.weight", "_hh").replace("_ih.weight", "_ih")
        for i in range(2)
        for key in ("mixer.weight_ih", "mixer.weight_hh", "mixer.out_proj", "mlp.gate_up_proj", "mlp.down_proj")
    }


def test_is_a_partition_that_trains():
    model = copy.deepcopy(nn.Sequential(Gate(other=0.1), nn.LayerNorm(2), nn.Embedding(3, 2)))
    model.add_module("shared", model[0])
    groups = parameter_groups(model, lr=1e-3, weight_decay=0.1)
    members = [id(p) for group in groups for p in group["params"]]
    assert len(members) == len(set(members)) and set(members) == {id(p) for p in model.parameters()}
    assert len({group["name"] for group in groups}) == len(groups)
    optimizer = torch.optim.AdamW(groups)
    assert [group["name"] for group in optimizer.param_groups] == [group["name"] for group in groups]


def shared_with_two_factors():
    first, second = Gate(other=0.1), Gate(other=0.2)
    second.other = first.other
    return nn.Sequential(first, second)


def misspelt():
    layer = nn.Linear(2, 2)
    layer._no_weight_decay = ("wieght",)
    return nn.Sequential(layer)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (misspelt, r"_no_weight_decay of 0 \(Linear\) names 'wieght'.*weight, bias"),
        (lambda: Gate(othre=0.1), r"_lr_scale of the model \(Gate\) names 'othre'"),
        (lambda: Gate(other=0), "_lr_scale.*must be positive, got 0"),
        (shared_with_two_factors, "1.other is shared and has two _lr_scale factors, 0.1 and 0.2"),
        (nn.ReLU, "ReLU has none"),
    ],
)
def test_bad_declarations(model, message):
    with pytest.raises(ValueError, match=message):
        parameter_groups(model(), lr=1e-3, weight_decay=0.1)


@pytest.mark.parametrize("argument", ["lr", "weight_decay"])
@pytest.mark.parametrize("value", [-1.0, float("nan")])
def test_bad_numbers(argument, value):
    with pytest.raises(ValueError, match=f"{argument} must be at least 0"):
        parameter_groups(nn.Linear(2, 2), **{"lr": 1e-3, "weight_decay": 0.1, argument: value})
