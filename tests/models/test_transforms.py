"""Whole models under transforms: each sequence on its own, many models at once, derivatives in the backward pass."""

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from seqmix import SequenceModel
from seqmix.kernels import backend

pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def build(**options: object) -> SequenceModel:
    torch.manual_seed(0)
    mixers = ["fp-rnn", "attention", {"name": "bd-lru", "block_size": 2}]
    return SequenceModel(mixers, 7, 8, 3, dtype=torch.float64, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("head", [None, {"name": "classification", "n_classes": 3}], ids=str)
def test_a_model_under_vmap(head: object) -> None:
    model, tokens = build(head=head), torch.randint(7, (3, 5))
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(parameters: dict[str, Tensor], tokens: Tensor) -> Tensor:
        return functional_call(model, parameters, (tokens[None],))[0].square().sum()

    with backend("reference"):
        each = vmap(grad(loss), (None, 0))(parameters, tokens)
        model(tokens)[0].square().sum().backward()
    for name, p in model.named_parameters():
        torch.testing.assert_close(each[name].sum(0), torch.zeros_like(p) if p.grad is None else p.grad)


def test_what_vmap_cannot_read_is_named() -> None:
    model, tokens = build(), torch.randint(7, (3, 5))
    with backend("reference"):
        with pytest.raises(NotImplementedError, match="lengths cannot differ within vmap"):
            vmap(lambda t, n: model(t[None], lengths=n[None])[0])(tokens, torch.tensor([5, 2, 4]))
        with pytest.raises(NotImplementedError, match="cu_seqlens cannot differ within vmap"):
            vmap(lambda t, c: model(t[None], cu_seqlens=c)[0])(tokens, torch.tensor([[0, 2, 5]] * 3, dtype=torch.int32))
        same = vmap(lambda t: model(t[None], lengths=torch.tensor([3]))[0][0])(tokens)
        torch.testing.assert_close(same[:, :3], model(tokens)[0][:, :3])


def test_blocks_are_computed_again_on_their_backend() -> None:
    model, tokens = build(activation_checkpointing=True), torch.randint(7, (2, 4))
    plain = build()

    def hessian_row(model: SequenceModel) -> Tensor:
        with backend("reference"):
            loss = model(tokens)[0].square().sum()
        weight = model.embedding.weight
        (gradient,) = torch.autograd.grad(loss, weight, create_graph=True)
        return torch.autograd.grad(gradient.sum(), weight)[0]

    torch.testing.assert_close(hessian_row(model), hessian_row(plain))


@pytest.mark.parametrize("reference", [False, True])
def test_no_sequences(reference: bool) -> None:
    model = build()
    with backend("reference" if reference else None):
        logits, state = model(torch.empty(0, 5, dtype=torch.int64), lengths=torch.empty(0, dtype=torch.int64))
        logits.sum().backward()
        after, _ = model.step(torch.empty(0, dtype=torch.int64), state)
    assert logits.shape == (0, 5, 7) and after.shape == (0, 7)
    assert all(not p.grad.any() for p in model.parameters() if p.grad is not None)
