"""`delta_rule` keeps the kernel contract from beta = 0 to reflections at beta = 2, with a decay and without."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from seqmix.kernels import delta_rule, gated_linear_attention
from seqmix.kernels.delta_rule import reference
from tests.kernels.harness import KernelContract, MatrixTritonContract, OpCase, assert_rule, compare


def make(heads: int, keys: int, values: int, beta: str, strongest: float | None = None):
    def build(batch: int, length: int) -> dict[str, Tensor]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(batch, length, heads, *shape, dtype=torch.float64)

        strength = 2 * torch.rand(batch, length, heads, dtype=torch.float64)
        if beta == "two":
            strength = torch.full_like(strength, 2.0)
        elif beta == "ends":  # near 0 and near 2: isometries, so that a lost carry shows
            strength = (strength > 1) * 2.0 + (1 - 2.0 * (strength > 1)) * 1e-3 * strength
        inputs = {"q": normal(keys), "k": normalize(normal(keys), dim=-1), "v": normal(values), "beta": strength}
        if strongest is not None:
            inputs["log_g"] = -strongest * torch.rand(batch, length, heads, dtype=torch.float64)
        return inputs

    return build


def case(name: str, heads: int, keys: int, values: int, beta: str, strongest: float | None = None) -> OpCase:
    return OpCase(
        name,
        delta_rule,
        reference.delta_rule,
        make(heads, keys, values, beta, strongest),
        (heads, keys, values),
        custom_op="delta_rule",
    )


class TestDeltaRule(KernelContract):
    cases = [
        case("isometric", 2, 5, 7, "ends"),
        case("gated", 3, 6, 2, "ends", 1e-3),
        case("strong decay", 2, 5, 4, "any", 20.0),
        case("any beta", 2, 4, 3, "any"),
        case("width one", 1, 1, 1, "any", 1e-3),
    ]


class TestDeltaRuleTriton(MatrixTritonContract):
    cases = [case("isometric", 1, 5, 7, "ends"), case("gated", 1, 6, 2, "ends", 1e-3)]


@pytest.mark.triton
@pytest.mark.parametrize("beta", ["two", "any"])
@pytest.mark.parametrize("strongest", [None, 20.0])
def test_triton_reflections_and_strong_decay(beta: str, strongest: float | None) -> None:
    some = case("some", 1, 8, 7, beta, strongest)
    inputs, state, cu_seqlens = some.packed([0, 1, 1, 20, 60])
    compare(some, inputs, state, torch.float32, cu_seqlens=cu_seqlens, backend="triton")


@pytest.mark.triton
def test_triton_over_several_tiles() -> None:
    wide = case("wide", 1, 70, 67, "two", 0.1)
    compare(wide, wide.make(1, 40), wide.state(1), torch.float32, backend="triton")


@pytest.mark.triton
def test_triton_repeated_keys() -> None:
    """One key over and over at beta = 2: powers of L grow like binomials, and an inverse made of them is garbage.

    The writes of a chunk alternate in sign and cancel in the sums that make its outputs and its state; each has an
    error of its own, where the loop forms a write from the state as it is. Over six seeds the error was .5 to 2.0
    times what the rule allows, at most 4.1e-6 of the largest number.
    """
    some = case("some", 1, 8, 7, "two")
    inputs, state = some.make(1, 64), some.state(1).float()
    short = {name: tensor.float() for name, tensor in inputs.items()}
    short["k"] = short["k"][:, :1].expand(-1, 64, -1, -1)
    wide = {name: tensor.double() for name, tensor in short.items()}
    truth, plain, got = (
        dict(zip(("o", "state"), delta_rule(**given, initial_state=start, backend=backend), strict=True))
        for given, start, backend in (
            (wide, state.double(), "reference"), (short, state, "reference"), (short, state, "triton")
        )
    )  # fmt: skip
    assert_rule(got, plain, truth, torch.float32, slack=3)


@pytest.mark.parametrize("strongest", [None, 1e-3, 20.0])
def test_error_rule_at_full_size(strongest: float | None) -> None:
    full = case("full size", 2, 64, 64, "two", strongest)
    compare(full, full.make(1, 1024), full.state(1), torch.float32)


def test_reflections_compose_permutations() -> None:
    """beta = 2 along e_i - e_j swaps rows i and j of the state: a thousand of them, and nothing is lost."""
    i = torch.randint(5, (1000,))
    j = (i + torch.randint(1, 5, (1000,))) % 5
    eye = torch.eye(5)
    k = ((eye[i] - eye[j]) / 2**0.5).view(1, 1000, 1, 5)
    start = torch.randn(1, 1, 5, 3)
    zero = torch.zeros(1, 1000, 1, 3)
    _, final = delta_rule(k, k, zero, torch.full((1, 1000, 1), 2.0), initial_state=start)
    order = torch.arange(5)
    for a, b in zip(i.tolist(), j.tolist(), strict=True):
        order[[a, b]] = order[[b, a]]
    torch.testing.assert_close(final[0, 0], start[0, 0, order], rtol=0, atol=2e-4)


def test_beta_one_overwrites_and_orthogonal_keys_stay() -> None:
    eye = torch.eye(4, dtype=torch.float64)
    k, v = eye[[0, 1, 0]].view(1, 3, 1, 4), torch.randn(1, 3, 1, 2, dtype=torch.float64)
    _, final = delta_rule(k, k, v, torch.ones(1, 3, 1, dtype=torch.float64))
    assert torch.equal(final[0, 0, 0], v[0, 2, 0]) and torch.equal(final[0, 0, 1], v[0, 1, 0])


def test_first_order_in_beta_is_linear_attention() -> None:
    inputs = make(2, 4, 3, "any", 0.1)(1, 50)
    beta = 1e-7 * inputs["beta"]
    o, _ = delta_rule(**(inputs | {"beta": beta}))
    expected, _ = gated_linear_attention(inputs["q"], inputs["k"], beta[..., None] * inputs["v"], inputs["log_g"])
    torch.testing.assert_close(o, expected, rtol=1e-4, atol=1e-11)


def test_backward_keeps_only_borders() -> None:
    batch, length, heads, keys, values = 2, 256, 2, 16, 16
    saved: list[int] = []
    inputs = {n: t.float().requires_grad_() for n, t in make(heads, keys, values, "any")(batch, length).items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        delta_rule(**inputs)
    assert max(saved) <= batch * length * heads * keys * values // 16


def test_mixed_types_and_bad_input() -> None:
    inputs = make(2, 4, 3, "any", 0.1)(2, 5)
    half = {n: t.float() if n in ("beta", "log_g") else t.bfloat16() for n, t in inputs.items()}
    o, final = delta_rule(**half)
    assert (o.dtype, final.dtype) == (torch.bfloat16, torch.float32)
    for name, bad, match in (
        ("k", inputs["k"][..., :-1], r"k must have shape \(2, 5, 2, 4\)"),
        ("v", inputs["v"][:, :-1], r"v must have shape \(2, 5, 2, 3\)"),
        ("q", inputs["q"][..., :0], r"k must have shape \(2, 5, 2, 0\)"),
        ("v", inputs["v"][..., :0], "v must hold at least one head of width 1"),
        ("beta", inputs["beta"][..., None], r"beta must be a tensor of shape \(B, T, H\)"),
        ("beta", inputs["beta"][..., :-1], r"beta must have shape \(2, 5, 2\)"),
        ("log_g", inputs["log_g"][:, :-1], r"log_g must have shape \(2, 5, 2\)"),
        ("beta", inputs["beta"].float(), "beta cannot be mixed with v"),
    ):
        with pytest.raises(ValueError, match=match):
            delta_rule(**(inputs | {name: bad}))
