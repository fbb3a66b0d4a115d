"""`dplr_delta_rule` keeps the kernel contract for the pairs a, b of every layer built on it, at any decay."""

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from seqmix.kernels import delta_rule, dplr_delta_rule
from seqmix.kernels.dplr_delta_rule import reference
from tests.kernels.harness import KernelContract, MatrixTritonContract, OpCase, compare


def make(heads: int, keys: int, values: int, kind: str, strongest: float):
    def build(batch: int, length: int) -> dict[str, Tensor]:
        def normal(width: int) -> Tensor:
            return torch.randn(batch, length, heads, width, dtype=torch.float64)

        def uniform(width: int) -> Tensor:
            return torch.rand(batch, length, heads, width, dtype=torch.float64)

        log_w, k = -strongest * uniform(keys), normalize(normal(keys), dim=-1)
        if kind == "erase":  # KDA: strengths near 0 and 2, isometries where nothing decays, so that a lost carry shows
            strength = 2.0 * (uniform(1) > 0.5)
            pair = {"k": strength * k, "a": -strength * k, "b": log_w.exp() * k}
        elif kind == "part":  # RWKV-7: a part of each key is removed
            pair = {"k": k * (0.5 + uniform(keys)), "a": -uniform(keys) * k, "b": k}
        else:  # |b| = 2 along keys of length one, as far as it goes where decays are strong
            pair = {"k": k, "a": -k, "b": 2 * normalize(normal(keys), dim=-1)}
        return {"q": normal(keys), **pair, "v": normal(values), "log_w": log_w}

    return build


def case(name: str, heads: int, keys: int, values: int, kind: str, strongest: float, slack: float = 1.0) -> OpCase:
    loop = reference.dplr_delta_rule
    build, custom = make(heads, keys, values, kind, strongest), "dplr_delta_rule"
    return OpCase(name, dplr_delta_rule, loop, build, (heads, keys, values), custom_op=custom, slack=slack)


class TestDPLRDeltaRule(KernelContract):
    cases = [
        case("erase", 2, 5, 7, "erase", 1e-3),
        case("part, strong decay", 3, 6, 2, "part", 20.0),
        case("width one", 1, 1, 1, "part", 1.0),
    ]


@pytest.mark.slow
class TestDPLRDeltaRuleTriton(MatrixTritonContract):
    # Slack as `docs/kernels.md` says: a reflection is the difference of what k and a write.
    cases = [case("erase", 1, 5, 7, "erase", 1e-3, slack=1.5), case("part", 1, 6, 2, "part", 20.0)]


@pytest.mark.triton
@pytest.mark.parametrize(
    "kind, bounds", [("part", [0, 1, 1, 20]), pytest.param("wide", [0, 1, 1, 20, 60], marks=pytest.mark.slow)]
)
def test_triton_strong_decay_packed(kind: str, bounds: list[int]) -> None:
    some = case("some", 1, 4, 3, kind, 20.0)
    inputs, state, cu_seqlens = some.packed(bounds)
    compare(some, inputs, state, torch.float32, cu_seqlens=cu_seqlens, backend="triton")


@pytest.mark.triton
@pytest.mark.slow
def test_triton_over_several_tiles() -> None:
    wide = case("wide", 1, 70, 67, "erase", 0.1)
    compare(wide, wide.make(1, 40), wide.state(1), torch.float32, backend="triton")


@pytest.mark.parametrize("kind, strongest", [("erase", 1e-3), ("wide", 20.0)])
def test_error_rule_at_full_size(kind: str, strongest: float) -> None:
    full = case("full size", 2, 64, 64, kind, strongest)
    compare(full, full.make(1, 512), full.state(1), torch.float32)


def test_is_the_delta_rule_where_every_key_decays_alike() -> None:
    given = make(2, 4, 3, "part", 1.0)(2, 40)
    k, beta, log_g = normalize(given["k"], dim=-1), 2 * torch.rand(2, 40, 2), given["log_w"][..., 0]
    beta, start = beta.double(), torch.randn(2, 2, 4, 3, dtype=torch.float64)
    expected = delta_rule(given["q"], k, given["v"], beta, log_g, initial_state=start)
    write, read = beta[..., None] * k, log_g.exp()[..., None] * k
    log_w = log_g[..., None].expand_as(k)
    found = dplr_delta_rule(given["q"], write, given["v"], -write, read, log_w, initial_state=start)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_published_recurrences_by_hand() -> None:
    """KDA, RWKV-7 and Gated DeltaNet-2 on three tokens with two keys, worked out step by step."""

    def rows(*numbers: tuple[float, ...]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.float64).view(1, 3, 1, -1)

    q, k, v = rows((1, 0), (0, 1), (1, 1)), rows((0.6, 0.8), (1, 0), (0.8, -0.6)), rows((1,), (2,), (-1,))
    w, beta, alpha = rows((0.5, 1), (1, 0.5), (0.5, 0.5)), rows((1,), (2,), (0.5,)), rows((1, 0), (0.5, 0.5), (0.25, 1))
    write = rows((0.5,), (1,), (1,))
    for given, outputs, final in (
        ((beta * k, v, -beta * k, w * k), (0.6, 0.4, 1.676), (0.804, 0.872)),
        ((k, v, -alpha * k, k), (0.6, 0.4, 1.79), (0.03, 1.76)),
        ((k, write * v, -k, w * alpha * k), (0.3, 0.2, 0.944), (0.151, 0.793)),
    ):
        o, S = dplr_delta_rule(q, *given, w.log())
        torch.testing.assert_close(o.flatten().tolist(), list(outputs), rtol=0, atol=1e-12)
        torch.testing.assert_close(S.flatten().tolist(), list(final), rtol=0, atol=1e-12)


def test_mixed_types_and_bad_input() -> None:
    inputs = make(2, 4, 3, "part", 0.1)(2, 5)
    half = {n: t.bfloat16() if n in ("q", "k", "v") else t.float() for n, t in inputs.items()}
    o, final = dplr_delta_rule(**half)
    assert (o.dtype, final.dtype) == (torch.bfloat16, torch.float32)
    for name, bad, match in (
        ("k", inputs["k"][..., :-1], r"k must have shape \(2, 5, 2, 4\)"),
        ("a", inputs["a"][:, :-1], r"a must have shape \(2, 5, 2, 4\)"),
        ("log_w", inputs["log_w"][..., 0], r"log_w must be a tensor of shape \(B, T, H, K\)"),
        ("v", inputs["v"][..., :0], "v must hold at least one head of width 1"),
        ("b", inputs["b"].float(), "b cannot be mixed with v"),
    ):
        with pytest.raises(ValueError, match=match):
            dplr_delta_rule(**(inputs | {name: bad}))
