"""Derivatives of other kinds: every mixer has them under the reference, and elsewhere has them or refuses by name."""

import copy
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import functional_call, grad, jacrev, jvp, vmap

from seqmix.kernels import backend
from seqmix.mixers import TokenMixer, create_mixer, list_mixers

# torch goes through a batch one by one where it has no rule: slower, and as right.
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")

# Solvers, gradients and mixings differ, and each has its own way to a derivative.
FIXED_POINTS: dict[str, tuple[str, dict[str, Any]]] = {
    "fp-rnn dplr": ("fp-rnn", {"mixing": "dplr", "solver": "sweeps", "max_radius": 0.9}),
    "fp-rnn kronecker": ("fp-rnn", {"mixing": "kronecker", "hidden_dependence": (), "solver": "direct"}),
    "fp-rnn phantom": ("fp-rnn", {"gradient": "phantom"}),
    "fp-rnn unmixed": ("fp-rnn", {"rank": 0}),
    "fp-mamba sweeps": ("fp-mamba", {"solver": "sweeps", "max_radius": 0.3}),
    "fp-mamba kronecker": ("fp-mamba", {"mixing": "kronecker", "hidden_dependence": ("b",)}),
    "fp-mamba phantom": ("fp-mamba", {"gradient": "phantom", "rank": 1}),
}
CASES = {name: (name, {}) for name in list_mixers()} | FIXED_POINTS
WAYS = {
    "jvp": lambda f, x: jvp(f, (x,), (torch.ones_like(x),)),
    "grad": lambda f, x: grad(lambda x: f(x).square().sum())(x),
    "jacrev": lambda f, x: jacrev(f)(x),
    "vmap": lambda f, x: vmap(f)(x.unsqueeze(1)),
    "grad of grad": lambda f, x: _second(f, x),
}


@cache
def build(case: str) -> TokenMixer:
    name, options = CASES[case]
    torch.manual_seed(0)
    return create_mixer(name, 8, dtype=torch.float64, **options)


def x_of(batch: int = 2, length: int = 3) -> Tensor:
    return torch.randn(batch, length, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def output(layer: TokenMixer, x: Tensor) -> Tensor:
    return layer(x)[0]  # type: ignore[no-any-return]


def _gradient(f: Callable[[Tensor], Tensor], x: Tensor, **options: Any) -> Tensor:
    return torch.autograd.grad(f(x).square().sum(), x, **options)[0]


def _second(f: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(_gradient(f, x, create_graph=True).sum(), x)[0]


def slope(f: Callable[[Tensor], Tensor], x: Tensor, step: float = 1e-5) -> Tensor:
    """The derivative of f along ones, by differences of fourth order."""
    near, far = ((f(x + k * step) - f(x - k * step)) / (2 * k * step) for k in (1, 2))
    return (4 * near - far) / 3


@pytest.mark.parametrize("case", CASES)
def test_the_reference_computes_what_the_kernels_do(case: str) -> None:
    layer, bounds = build(case), torch.tensor([0, 2, 2, 6], dtype=torch.int32)
    packed = x_of(1, 6).requires_grad_()

    def run() -> tuple[Tensor, ...]:
        whole, state = layer(x_of(2, 5))
        y, (*leaves,) = layer(packed, cu_seqlens=bounds)
        loss = y.square().sum() + sum(leaf.square().sum() for leaf in leaves if leaf.is_floating_point())
        used = [p for p in layer.parameters() if p.numel()]
        return whole, *state, y, *torch.autograd.grad(loss, (packed, *used), allow_unused=True)

    ours = run()
    with backend("reference"):
        plain = run()
    for one, other in zip(ours, plain, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("case", CASES)
def test_derivatives_under_the_reference_are_right(case: str) -> None:
    f, x = partial(output, build(case)), x_of()
    phantom = "phantom" in case or case == "pd-ssm"  # a gradient that is not one of the function
    with backend("reference"):
        values, tangents = jvp(f, (x,), (torch.ones_like(x),))
        torch.testing.assert_close(values, f(x))
        if not phantom:
            torch.testing.assert_close(tangents, slope(f, x), rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(
                _second(f, x), slope(lambda x: _gradient(f, x.requires_grad_()), x), rtol=1e-5, atol=1e-6
            )
        gradient = _gradient(f, x.clone().requires_grad_())
        torch.testing.assert_close(grad(lambda x: f(x).square().sum())(x), gradient)
        torch.testing.assert_close(2 * torch.einsum("bti,btijkl->jkl", f(x[:1]), jacrev(f)(x[:1])), gradient[:1])
        torch.testing.assert_close(vmap(f)(x.unsqueeze(1)).squeeze(1), f(x))


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_each_sequence_and_layers_at_once(case: str) -> None:
    layer, x = build(case), x_of()
    parameters = {name: p.detach() for name, p in layer.named_parameters()}

    def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
        return functional_call(layer, parameters, (x.unsqueeze(0),))[0].square().sum()

    with backend("reference"):
        each = vmap(grad(loss), (None, 0))(parameters, x)
        layer.zero_grad()
        layer(x)[0].square().sum().backward()
        two = {name: torch.stack((p, 0.9 * p)) for name, p in parameters.items()}
        both = vmap(lambda p: functional_call(layer, p, (x,))[0])(two)
        torch.testing.assert_close(both[0], layer(x)[0])
    for name, p in layer.named_parameters():
        torch.testing.assert_close(each[name].sum(0), torch.zeros_like(p) if p.grad is None else p.grad)
    copy.deepcopy(layer)  # nothing of the transform stays in the layer


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", list_mixers())
def test_elsewhere_they_are_right_or_refused_by_name(name: str, way: str) -> None:
    f, x = partial(output, build(name)), x_of()
    with backend("reference"):
        right = WAYS[way](f, x)
    try:
        found = WAYS[way](f, x)
    except NotImplementedError as error:
        assert "backend='reference'" in str(error)
    else:
        torch.testing.assert_close(found, right)


@pytest.mark.parametrize("name", list_mixers())
def test_tangents_are_never_dropped(name: str) -> None:
    layer, x = build(name), x_of()
    with forward_ad.dual_level(), pytest.raises(NotImplementedError, match="forward-mode AD needs backend='reference'"):
        layer(forward_ad.make_dual(x, torch.ones_like(x)))


@pytest.mark.parametrize("reference", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_an_empty_batch_gives_empty_tensors(case: str, reference: bool) -> None:
    layer, x = build(case), x_of()[:0].requires_grad_()
    layer.zero_grad()
    with backend("reference" if reference else None):
        y, state = layer(x)
        y.sum().backward()
        token, after = layer.step(x[:, 0], state)
    assert y.shape == x.shape and x.grad is not None and token.shape == (0, 8)
    for leaf, later, one in zip(state, after, layer(x_of()[:1])[1], strict=True):
        assert len(leaf) == len(later) == 0 and leaf.dtype == one.dtype and leaf.shape[1:] == one.shape[1:]
    assert all(p.grad is None or not p.grad.any() for p in layer.parameters())


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name.startswith("fp-") else pytest.mark.slow) for name in list_mixers()]
)
def test_one_export_for_all_lengths(name: str) -> None:
    layer, time = build(name), torch.export.Dim("time", min=1)
    exported = torch.export.export(layer, (x_of(2, 2),), dynamic_shapes=({1: time},), strict=False).module()
    for length in (1, 2, 3, 7):
        torch.testing.assert_close(exported(x_of(2, length))[0], layer(x_of(2, length))[0])
