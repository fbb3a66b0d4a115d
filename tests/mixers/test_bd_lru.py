"""`BDLRU`: the released loops, the paper's stability bound, exact permutations, and what block sizes can do."""

import pytest
import torch

from seqmix.mixers import BDLRU, HLRU

# The normalisers of the released `bdlru_sel.py` and `hlru_sel.py`, as they stand there.
RELEASED = {
    "softmax": lambda z: z.exp() / z.exp().sum(-1, keepdim=True),
    "sigmoid": lambda z: z.sigmoid() / z.sigmoid().sum(-1, keepdim=True),
    "relu": lambda z: z.relu() / (z.relu() + 0.001).sum(-1, keepdim=True),
    "tanh": lambda z: z.tanh() / z.tanh().abs().sum(-1, keepdim=True),
    "linear": lambda z: z / z.abs().sum(-1, keepdim=True),
    "l1": lambda z: z / z.abs().sum(-1, keepdim=True),
}


@pytest.mark.parametrize("selective", [True, False])
@pytest.mark.parametrize("normalization", RELEASED)
def test_equals_the_released_loop(normalization: str, selective: bool) -> None:
    """`hidden_x = einsum('bci, bcji -> bcj', hidden_x, A_qk) + nl`, then `proj_out` of all of it."""
    layer = BDLRU(6, 12, block_size=3, normalization=normalization, selective=selective, dtype=torch.float64)
    x = torch.randn(2, 20, 6, dtype=torch.float64)
    for p in layer.parameters():
        torch.nn.init.normal_(p)
    if selective:
        z = (x @ layer.proj_gates.weight.T + layer.proj_gates.bias).view(2, 20, 4, 3, 4)
    else:
        z = layer.proj_gates.A_w.expand(2, 20, 4, 3, 4)
    gates, v = RELEASED[normalization](z), (x @ layer.proj_v.weight.T).view(2, 20, 4, 3)
    h, expected = torch.zeros(2, 4, 3, dtype=torch.float64), []
    for t in range(20):
        h = torch.einsum("bci,bcji->bcj", h, gates[:, t, ..., :-1]) + gates[:, t, ..., -1] * v[:, t]
        expected.append(h.flatten(1) @ layer.proj_out.weight.T)
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.h, h, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(layer.gates(x), gates)


def test_every_normalisation_is_another_layer() -> None:
    x, outputs = torch.randn(2, 9, 6), []
    for normalization in ("softmax", "sigmoid", "relu", "tanh", "l1"):
        torch.manual_seed(0)
        layer = BDLRU(6, 12, block_size=3, normalization=normalization)
        torch.nn.init.normal_(layer.proj_gates.weight)
        outputs.append(layer(x)[0] / layer(x)[0].abs().max())
    for i, y in enumerate(outputs):
        assert all((y - other).abs().max() > 1e-2 for other in outputs[:i])


def test_static_gates_see_no_token() -> None:
    layer = BDLRU(6, 12, block_size=3, selective=False)
    gates = layer.gates(torch.randn(2, 5, 6))
    assert torch.equal(gates, gates[:1, :1].expand_as(gates))
    assert layer.proj_gates.A_w.min() >= 0 and layer.proj_gates.A_w.max() < 1  # torch.rand, as released
    layer(torch.randn(2, 5, 6))[0].square().sum().backward()
    assert layer.proj_gates.A_w.grad.abs().min() > 0


def test_sigmoid_gates_of_any_size_are_finite() -> None:
    """By their logarithms: sigmoid(-200) alone is zero in float32, and a row of them 0 / 0."""
    layer = BDLRU(4, 4, 2, normalization="sigmoid")
    torch.nn.init.constant_(layer.proj_gates.bias, -200.0)
    gates = layer.gates(torch.zeros(1, 1, 4))
    torch.testing.assert_close(gates, torch.full_like(gates, 1 / 3))


@pytest.mark.parametrize("normalization", RELEASED)
def test_state_never_exceeds_the_largest_value(normalization: str) -> None:
    """Proposition 1: every row spends at most one unit on the state and its input, so max|h| <= max|v|."""
    layer = BDLRU(8, 12, block_size=3, normalization=normalization)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.normal_(std=3)
        x = torch.randn(4, 200, 8)
        _, state = layer(x)
        assert state.h.abs().max() <= layer.proj_v(x).abs().max() * (1 + 1e-5)
        sums = layer.gates(x).abs().sum(-1)
        assert sums.max() < 1 + 1e-5 and (normalization == "relu" or sums.min() > 1 - 1e-5)


def permutation_layer(orders: torch.Tensor, normalization: str = "softmax") -> BDLRU:
    """A layer whose token k (one-hot) permutes its one block by `orders[k]`; the last token writes 1..m."""
    tokens, m = orders.shape
    layer = BDLRU(tokens + 1, m, m, normalization=normalization)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        weight = layer.proj_gates.weight.view(m, m + 1, tokens + 1)
        for k in range(tokens):
            weight[torch.arange(m), orders[k], k] = 200.0
        weight[:, m, tokens] = 200.0
        layer.proj_v.weight[:, tokens] = torch.arange(1.0, m + 1)
        layer.proj_out.weight[:m] = torch.eye(m)
    return layer


def test_saturated_gates_compose_permutations_exactly() -> None:
    orders = torch.stack([torch.randperm(5) for _ in range(7)])
    layer = permutation_layer(orders)
    word = torch.randint(7, (2000,))
    tokens = torch.nn.functional.one_hot(torch.cat([torch.tensor([7]), word]), 8).float()
    y, _ = layer(tokens[None])
    expected = torch.arange(1.0, 6)
    for k in word:
        expected = expected[orders[k]]
    assert torch.equal(y[0, -1, :5], expected)


def test_parity_by_hand() -> None:
    """A block of two swaps its entries at every one: its first entry tells the parity of any length exactly."""
    layer = permutation_layer(torch.tensor([[0, 1], [1, 0]]))
    bits = torch.randint(2, (3000,))
    tokens = torch.nn.functional.one_hot(torch.cat([torch.tensor([2]), bits]), 3).float()
    y, _ = layer(tokens[None])
    assert torch.equal(y[0, 1:, 0] - 1, bits.cumsum(0).remainder(2).float())


def test_one_by_one_blocks_have_no_negative_eigenvalue_with_softmax_gates() -> None:
    x = 10 * torch.randn(2, 50, 8)
    single = BDLRU(8, 8, 1)
    torch.nn.init.normal_(single.proj_gates.weight)
    eigenvalues = single.diagnostics(x)["eigenvalues"]
    assert eigenvalues.imag.abs().max() == 0 and eigenvalues.real.min() >= 0
    signed = BDLRU(8, 8, 1, normalization="l1")
    torch.nn.init.normal_(signed.proj_gates.weight)
    assert signed.diagnostics(x)["eigenvalues"].real.min() < -0.9
    double = BDLRU(8, 8, 2)
    torch.nn.init.normal_(double.proj_gates.weight)
    eigenvalues = double.diagnostics(x)["eigenvalues"]
    assert eigenvalues.imag.abs().max() == 0, "non-negative 2 x 2 matrices have real eigenvalues"
    assert eigenvalues.real.min() < -0.9


def test_block_size_one_is_h_lru_of_order_one() -> None:
    block, order = BDLRU(8, 6, 1), HLRU(8, 6, 1)
    order.load_state_dict(block.state_dict())
    x = torch.randn(2, 30, 8)
    torch.testing.assert_close(block(x)[0], order(x)[0], rtol=1e-5, atol=1e-6)


def test_gates_start_almost_uniform() -> None:
    gates = BDLRU(64, 64, 4).gates(torch.randn(4, 10, 64))
    assert (gates - 0.2).abs().max() < 0.2


def test_a_row_of_zero_gates_stays_zero() -> None:
    layer = BDLRU(4, 4, 2, normalization="l1")
    torch.nn.init.zeros_(layer.proj_gates.weight)
    y, _ = layer(torch.randn(1, 5, 4))
    y.sum().backward()
    assert torch.equal(y, torch.zeros_like(y))
    assert all(torch.isfinite(p.grad).all() for p in layer.parameters())


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="block_size must be a positive integer, got 0"):
        BDLRU(8, block_size=0)
    with pytest.raises(ValueError, match="d_state must be a multiple of block_size = 3, got 8"):
        BDLRU(8, 8, 3)
    with pytest.raises(ValueError, match=r"BDLRU: normalization must be one of 'softmax', 'l1', .*, got 'nonorm'"):
        BDLRU(8, normalization="nonorm")
    with pytest.raises(ValueError, match="BDLRU: selective must be one of True, False, got 'no'"):
        BDLRU(8, selective="no")  # type: ignore[arg-type]


def test_decays_survive_bfloat16() -> None:
    """A signed gate of 0.9967 is 1 in bf16; formed in float32 it still forgets, in bf16 weights and under autocast."""
    layer = BDLRU(16, block_size=2, normalization="l1")
    with torch.no_grad():
        layer.proj_gates.weight.zero_()
        layer.proj_gates.bias.copy_(torch.tensor([300.0, 0, 1, 0, 300, 1]).repeat(8))
    x = torch.randn(1, 2000, 16).bfloat16()
    expected = layer(x.float())[1].h
    low = BDLRU(16, block_size=2, normalization="l1").bfloat16()
    low.load_state_dict(layer.state_dict())
    torch.testing.assert_close(low(x)[1].h, expected, rtol=0.02, atol=0.02 * expected.abs().max().item())
    with torch.autocast("cpu", torch.bfloat16):
        assert layer.gates(x.float()).dtype == torch.float32
