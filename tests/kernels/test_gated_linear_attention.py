"""`gated_linear_attention` keeps the kernel contract with decays per channel, per head and without."""

import pytest
import torch
from torch import Tensor

from seqmix.kernels import gated_linear_attention
from seqmix.kernels.gated_linear_attention import reference
from tests.kernels.harness import KernelContract, MatrixTritonContract, OpCase, compare


def make(heads: int, keys: int, values: int, gates: str | None, strongest: float = 1e-3):
    def build(batch: int, length: int) -> dict[str, Tensor]:
        def normal(*shape: int) -> Tensor:
            return torch.randn(batch, length, heads, *shape, dtype=torch.float64)

        inputs = {"q": normal(keys), "k": normal(keys) / keys**0.5, "v": normal(values)}
        if gates is not None:
            # Decays in [e^-strongest, 1]: near one, so that a lost carry shows, unless asked otherwise.
            shape = (batch, length, heads, keys)[: 4 if gates == "channel" else 3]
            inputs["log_g"] = -strongest * torch.rand(shape, dtype=torch.float64)
        return inputs

    return build


def case(name: str, heads: int, keys: int, values: int, gates: str | None, strongest: float = 1e-3) -> OpCase:
    return OpCase(
        name,
        gated_linear_attention,
        reference.gated_linear_attention,
        make(heads, keys, values, gates, strongest),
        (heads, keys, values),
        custom_op="gated_linear_attention",
        poisoned=(140, 129, 131),
    )


class TestGatedLinearAttention(KernelContract):
    cases = [
        case("per channel", 2, 5, 7, "channel"),
        case("per head", 3, 4, 2, "head"),
        case("no decay", 2, 6, 3, None),
        case("strong decay", 2, 5, 4, "channel", 20.0),
        case("width one", 1, 1, 1, "head"),
    ]


class TestGatedLinearAttentionTriton(MatrixTritonContract):
    cases = [case("per channel", 1, 5, 7, "channel"), case("per head", 2, 5, 7, "head")]


@pytest.mark.triton
@pytest.mark.parametrize("gates", ["channel", "head", None])
def test_triton_strong_decay(gates: str | None) -> None:
    some = case("strong", 1, 5, 7, gates, 20.0)
    inputs, state, cu_seqlens = some.packed([0, 1, 1, 20, 60])
    compare(some, inputs, state, torch.float32, cu_seqlens=cu_seqlens, backend="triton")


@pytest.mark.triton
@pytest.mark.parametrize("gates", ["channel", "head", None])
def test_triton_over_several_tiles(gates: str | None) -> None:
    """Keys and values wider than a tile, in a width that is no multiple of anything."""
    full = case("wide", 1, 70, 67, gates, 0.1)
    compare(full, full.make(1, 20), full.state(1), torch.float32, backend="triton")


@pytest.mark.parametrize(("keys", "values"), [(37, 70), (70, 37), (25, 18)])
def test_error_rule_over_several_tiles(keys: int, values: int) -> None:
    """Beyond a pair of registers of any size, with a rest of a pair and of one, and blocks that are not full."""
    wide = case("wide", 2, keys, values, "channel", 0.1)
    inputs, state, cu_seqlens = wide.packed([0, 1, 1, 34, 165])
    compare(wide, inputs, state, torch.float32, cu_seqlens=cu_seqlens)


@pytest.mark.parametrize("gates", ["channel", "head"])
@pytest.mark.parametrize("strongest", [1e-3, 0.1, 20.0])
def test_error_rule_at_full_size(gates: str, strongest: float) -> None:
    full = case("full size", 2, 64, 64, gates, strongest)
    compare(full, full.make(1, 1024), full.state(1), torch.float32)


def test_rare_strong_decays() -> None:
    """A step of e^-20 between steps without decay: differences of cumulative sums would lose the weak ones."""
    full = case("full size", 2, 64, 64, "channel")
    inputs = full.make(1, 300)
    log_g = inputs["log_g"]
    inputs["log_g"] = torch.where(torch.rand_like(log_g) < 0.05, torch.full_like(log_g, -20.0), log_g)
    compare(full, inputs, full.state(1), torch.float32)


@pytest.mark.triton
@pytest.mark.parametrize("gates", ["channel", "head"])
def test_triton_rare_strong_decays(gates: str) -> None:
    """In one of two heads: its own state is lost, and errors are held to what the other keeps."""
    full = case("narrow", 2, 8, 8, gates)
    inputs = full.make(1, 40)
    inputs["log_g"][:, ::7, 0] = -20.0
    compare(full, inputs, full.state(1), torch.float32, backend="triton")


@pytest.mark.parametrize("backend", [None, "triton"])
def test_total_forgetting(backend: str | None) -> None:
    """log_g = -inf: the state is what this step writes, and no gradient is NaN."""
    inputs = {n: t.requires_grad_() for n, t in make(2, 3, 4, "head")(1, 6).items()}
    gone = torch.full_like(inputs["log_g"], -torch.inf).requires_grad_()
    o, _ = gated_linear_attention(inputs["q"], inputs["k"], inputs["v"], gone, backend=backend)
    expected = (inputs["q"] * inputs["k"]).sum(-1, keepdim=True) * inputs["v"]
    torch.testing.assert_close(o, expected, rtol=1e-12, atol=1e-12)
    assert torch.autograd.grad(o.sum(), gone)[0].eq(0).all()


def test_without_decay_it_is_causal_linear_attention() -> None:
    inputs = make(2, 5, 3, None)(2, 90)
    o, final = gated_linear_attention(**inputs)
    scores = torch.einsum("bthk,bjhk->bhtj", inputs["q"], inputs["k"]).tril()
    torch.testing.assert_close(o, torch.einsum("bhtj,bjhv->bthv", scores, inputs["v"]), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(final, torch.einsum("bthk,bthv->bhkv", inputs["k"], inputs["v"]))


@pytest.mark.parametrize("gates", [None, "head", "channel"])
def test_keys_of_one_head_are_those_of_all(gates: str | None) -> None:
    """Seen by every head, not copied for each: the same bits, and the sums of the gradients."""
    torch.manual_seed(0)
    q, k = torch.randn(2, 2, 40, 1, 6)
    v, do = torch.randn(2, 2, 40, 3, 5)
    shape = {None: None, "head": (2, 40, 3), "channel": (2, 40, 3, 6)}[gates]
    log_g = None if shape is None else -torch.rand(shape)
    leaves = [t.requires_grad_() for t in (q, k, v)]
    found = []
    for copied in (False, True):
        heads = [t.expand(-1, -1, 3, -1) for t in leaves[:2]]
        heads = [t.contiguous() for t in heads] if copied else heads
        o, final = gated_linear_attention(*heads, v, log_g)
        # An upstream gradient that is a view, too.
        found.append((o, final, *torch.autograd.grad(o.sum() + (o * do).sum(), leaves)))
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other)


def test_backward_keeps_only_borders() -> None:
    batch, length, heads, keys, values = 2, 256, 2, 16, 16
    saved: list[int] = []
    inputs = {n: t.float().requires_grad_() for n, t in make(heads, keys, values, "head")(batch, length).items()}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        gated_linear_attention(**inputs)
    assert max(saved) <= batch * length * heads * keys * values // 16


def test_mixed_types_and_bad_input() -> None:
    inputs = make(2, 4, 3, "channel")(2, 5)
    half = {n: t.float() if n == "log_g" else t.bfloat16() for n, t in inputs.items()}
    o, final = gated_linear_attention(**half)
    assert (o.dtype, final.dtype) == (torch.bfloat16, torch.float32)
    for name, bad, match in (
        ("k", inputs["k"][..., :-1], r"k must have shape \(2, 5, 2, 4\)"),
        ("v", inputs["v"][:, :-1], r"v must have shape \(2, 5, 2, 3\)"),
        ("v", inputs["v"][..., :0], "v must hold at least one head of width 1"),
        ("log_g", inputs["log_g"][..., :-1], r"log_g must have shape \(2, 5, 2, 4\)"),
        ("log_g", inputs["log_g"][..., :-1, 0], r"log_g must have shape \(2, 5, 2\)"),
        ("log_g", -1.0, r"log_g must be a tensor of shape \(B, T, H, K\)"),
        ("log_g", inputs["log_g"].float(), "log_g cannot be mixed with v"),
    ):
        with pytest.raises(ValueError, match=match):
            gated_linear_attention(**(inputs | {name: bad}))
