"""What stands in the place of a linear map takes part: an adapter in front of it, a quantised copy of it."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from seqmix.mixers import list_mixers
from seqmix.models import SequenceModel

# Options that bring linear maps of their own.
OPTIONS: list[dict[str, Any]] = [
    {"name": "attention", "forget_gate": True},
    {"name": "deltanet", "gated": True},
    {"name": "fp-rnn", "mixing": "kronecker", "output_gate": False, "hidden_dependence": []},
    {"name": "gla", "position": "selective-rope", "rope_options": {"gate": "gla"}},
]
SPECS = [*({"name": name} for name in list_mixers()), *OPTIONS]
HEADS = ["language", {"name": "classification", "n_classes": 3}, "autoencoder"]


def name_of(spec: dict[str, Any]) -> str:
    return "-".join(map(str, spec.values()))


def build(spec: dict[str, Any], **arguments: Any) -> SequenceModel:
    torch.manual_seed(0)
    return SequenceModel(spec, 11, 16, **arguments).eval()


def linear_maps(model: nn.Module) -> dict[str, nn.Linear]:
    return {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}


class Adapter(nn.Module):
    """LoRA (Hu et al. 2021, 2106.09685) of rank 1: the map itself, and a product of two learned ones."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(1, base.in_features))
        self.up = nn.Parameter(torch.zeros(base.out_features, 1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        return y + nn.functional.linear(nn.functional.linear(x, self.down), self.up).to(y.dtype)


@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_an_adapter_learns_in_the_place_of_every_linear_map(spec: dict[str, Any]) -> None:
    model, t = build(spec), torch.tensor([[1, 2, 3, 4, 5]])
    expected, _ = model(t)
    for name, module in linear_maps(model).items():
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, Adapter(module))
    ups = {name: p for name, p in model.named_parameters() if name.endswith(".up")}
    found, _ = model(t)
    torch.testing.assert_close(found, expected)
    gradients = torch.autograd.grad(found.square().sum(), list(ups.values()))
    unused = [name for name, gradient in zip(ups, gradients, strict=True) if not gradient.any()]
    assert not unused


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head if isinstance(head, str) else head["name"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_model_calls_every_linear_map(head: Any, bidirectional: bool) -> None:
    model, called = build({"name": "gla"}, head=head, bidirectional=bidirectional), set()
    for name, module in linear_maps(model).items():
        module.register_forward_hook(lambda *_, name=name: called.add(name))
    model(torch.tensor([[1, 2, 3]]), lengths=torch.tensor([2]))
    assert called == linear_maps(model).keys()


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:torch.quantize_per_tensor:UserWarning")
@pytest.mark.parametrize("spec", SPECS, ids=name_of)
def test_a_dynamically_quantised_model_runs(spec: dict[str, Any]) -> None:
    model, t = build(spec), torch.tensor([[1, 2, 3, 4, 5], [6, 7, 8, 9, 10]])
    quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert not any(type(module) is nn.Linear for module in quantised.modules())
    expected, _ = model(t)
    found, _ = quantised(t)
    # Eight bits for each weight, and for each activation.
    assert (found - expected).norm() <= 0.1 * expected.norm()
    state, steps = quantised.init_state(2), []
    for column in t.unbind(1):
        logits, state = quantised.step(column, state)
        steps.append(logits)
    assert (torch.stack(steps, 1) - expected).norm() <= 0.1 * expected.norm()
    quantised(t[:, 1:], quantised(t[:, :1])[1], lengths=torch.tensor([2, 4]))
    assert quantised.generate(t, 3, lengths=torch.tensor([2, 5])).shape == (2, 8)
