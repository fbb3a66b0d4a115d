"""The mixing matrix gives back what a layer does, for whatever is registered, and what is known of it."""

import math

import pytest
import torch
from einops import rearrange
from torch.nn import functional as F

from seqmix.inspect import Recurrence, eigenvalues, linear_form, mixing_matrix, register_linear_form
from seqmix.mixers import (
    BDLRU,
    HLRU,
    LRU,
    LSTM,
    S4D,
    S5,
    Attention,
    DenseRNN,
    FixedPointRNN,
    GatedLinearAttention,
    Mamba,
    TokenMixer,
    create_mixer,
    list_mixers,
)
from seqmix.mixers.registry import get_mixer

D = 8
NOT_LINEAR = {name for name in list_mixers() if get_mixer(name).load().linear_form is TokenMixer.linear_form}
CASES = [(name, {}) for name in list_mixers()] + [
    ("attention", {"position": "rope", "window": 3}),
    ("attention", {"position": "selective-rope", "d_conv": 3, "forget_gate": True, "n_heads": 2}),
    ("bd-lru", {"normalization": "l1", "block_size": 2}),
    ("bd-lru", {"block_size": 1}),
    ("deltanet", {"n_heads": 2, "n_householder": 2, "eigenvalues": "signed", "gated": True, "output_gate": True}),
    ("deltanet", {"n_heads": 2, "n_householder": 2, "position": "selective-rope", "gated": True, "d_conv": 1}),
    ("deltanet", {"n_heads": 2, "position": "rope"}),
    ("fp-mamba", {"mixing": "kronecker", "d_state": 2, "d_conv": 3, "hidden_dependence": ["b"]}),
    ("fp-mamba", {"mixing": "dplr", "d_state": 2, "rank": 1}),
    ("fp-rnn", {"mixing": "kronecker"}),
    ("fp-rnn", {"mixing": "dplr", "hidden_dependence": [], "output_gate": False}),
    ("fp-rnn", {"rank": 0}),
    ("gla", {"n_heads": 2, "position": "selective-rope", "d_conv": 3}),
    ("gla", {"n_heads": 2, "position": "rope", "tie_decay": False}),
    ("h-lru", {"order": 3}),
    ("mamba", {"eigenvalues": "signed"}),
    ("mamba-2", {"n_heads": 4, "n_groups": 2, "d_state": 4}),
    ("mamba-3", {"n_heads": 2, "d_state": 4}),
]


def build(name, arguments, dtype=torch.float64):
    torch.manual_seed(0)
    layer = create_mixer(name, D, dtype=dtype, **arguments)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))  # zeros, ones and ties would hide mistakes
    return layer


def inputs(length=9, dtype=torch.float64):
    return torch.randn(2, length, D, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)


@pytest.fixture(params=CASES, ids=lambda case: "-".join([case[0], *map(str, case[1].values())]))
def layer(request):
    name, arguments = request.param
    layer = build(name, arguments)
    if name in NOT_LINEAR:
        with pytest.raises(ValueError, match=f"{type(layer).__name__} has no mixing matrix"):
            mixing_matrix(layer, inputs())
        pytest.skip("not linear in its values, and says so")
    return layer


def test_it_gives_back_the_layer(layer):
    x = inputs()
    form = linear_form(layer, x)
    matrix = form.matrix()
    y, _ = layer(x)
    torch.testing.assert_close(form.output(form.read()), y, rtol=1e-9, atol=1e-10)
    # Every block is used: without the past the answer is another one.
    alone = torch.einsum("bhttoi,bthic->bthoc", matrix, form.values)
    assert (form.output(alone) - y).abs().amax(-1)[:, 1:].min() > 1e-6
    squeezed = mixing_matrix(layer, x)
    assert squeezed.shape == (matrix.shape if max(matrix.shape[-2:]) > 1 else matrix.shape[:4])
    torch.testing.assert_close(squeezed.reshape(matrix.shape), matrix, rtol=0, atol=0)


def test_it_is_causal(layer):
    x = inputs()
    matrix = linear_form(layer, x).matrix()
    t, s = torch.triu_indices(9, 9, offset=1)
    assert not matrix[:, :, t, s].any()
    later = x.clone()
    later[:, 6:] += 1
    changed = linear_form(layer, later).matrix()
    torch.testing.assert_close(changed[:, :, :5, :5], matrix[:, :, :5, :5], rtol=1e-12, atol=1e-14)
    assert (
        isinstance(layer, (LRU, S4D, S5)) or (changed - matrix)[:, :, 6:].abs().max() > 1e-6
    )  # selective but for these


def test_transitions_have_the_eigenvalues_of_the_diagnostics(layer):
    x = inputs()
    form = linear_form(layer, x)
    if not isinstance(form, Recurrence) or (isinstance(layer, GatedLinearAttention) and layer.tie_decay is False):
        if isinstance(layer, GatedLinearAttention) and not layer.position.n_angles:
            return
        with pytest.raises(ValueError, match="has no transition that belongs to a token"):
            eigenvalues(layer, x)
        return
    told, found = eigenvalues(layer, x), form.eigenvalues().flatten(2)
    # One decay for a whole matrix is told once.
    told = told.repeat_interleave(found.shape[-1] // told.shape[-1], -1)
    distance = (found[..., :, None] - told[..., None, :]).abs()
    assert distance.amin(-1).max() < 1e-6 and distance.amin(-2).max() < 1e-6
    torch.testing.assert_close(found.sum(-1), told.sum(-1), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", [name for name in list_mixers() if name not in NOT_LINEAR])
def test_other_types(name, dtype):
    layer, x = build(name, {}, dtype), inputs(dtype=dtype)
    form = linear_form(layer, x)
    assert form.matrix().dtype in (torch.float32, torch.complex64)
    y = layer(x)[0]
    tolerance = 2e-4 if dtype == torch.float32 else 0.06
    torch.testing.assert_close(form.output(form.read()), y, rtol=tolerance, atol=tolerance * y.abs().max().item())


def test_attention_is_its_softmax():
    layer, x = Attention(D, n_heads=2, dtype=torch.float64), inputs(6)
    q, k, _ = rearrange(layer.qkv_proj(x), "b t (qkv h k) -> qkv b t h k", qkv=3, h=2)
    scores = torch.einsum("bthk,bshk->bhts", q, k) / 2
    expected = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf).softmax(-1)
    matrix = mixing_matrix(layer, x)
    torch.testing.assert_close(matrix, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(matrix.sum(-1), torch.ones(2, 2, 6, dtype=torch.float64), rtol=1e-12, atol=0)


def test_lru_is_powers_of_lambda():
    layer = LRU(D, d_state=5, dtype=torch.float64)
    matrix = mixing_matrix(layer, inputs(6))
    gamma = (1 - layer.eigenvalues().abs() ** 2).sqrt()  # at initialisation
    for t in range(6):
        for s in range(t + 1):
            expected = (layer.eigenvalues() ** (t - s) * gamma).expand(2, -1)
            torch.testing.assert_close(matrix[:, :, t, s], expected, rtol=1e-9, atol=1e-12)


def test_saturated_bd_lru_is_products_of_permutations():
    """One-hot tokens: the first writes, the others permute."""
    layer = BDLRU(D, d_state=4, block_size=4, dtype=torch.float64)
    permutations = [[1, 2, 3, 0], [1, 0, 2, 3], [0, 2, 1, 3]]
    logits = torch.zeros(4, 4, 5, dtype=torch.float64)
    logits[0, :, 4] = 1000
    for token, permutation in enumerate(permutations, 1):
        logits[token, torch.tensor(permutation), torch.arange(4)] = 1000
    with torch.no_grad():
        layer.proj_gates.weight.zero_()
        layer.proj_gates.weight[:, :4] = logits.flatten(1).T
        layer.proj_gates.bias.zero_()
    tokens = [0, 1, 2, 3, 2, 1]
    matrix = mixing_matrix(layer, F.one_hot(torch.tensor([tokens]), D).double())
    assert matrix.shape == (1, 1, 6, 6, 4, 4)
    eye = torch.eye(4, dtype=torch.float64)
    product = eye
    for t, token in enumerate(tokens):
        if t:
            product = eye[:, permutations[token - 1]] @ product
        torch.testing.assert_close(matrix[0, 0, t, 0], product, rtol=0, atol=0)
    assert not matrix[0, 0, :, 1:].any()  # permutations leave no room for another value


def test_even_gates_of_order_one_halve():
    layer = HLRU(D, d_state=3, order=1, dtype=torch.float64)
    with torch.no_grad():
        layer.proj_gates.weight.zero_()
    age = torch.arange(5)[:, None] - torch.arange(5)
    expected = torch.where(age >= 0, 0.5 ** (age.double() + 1), 0)
    torch.testing.assert_close(mixing_matrix(layer, inputs(5)), expected.expand(2, 3, 5, 5), rtol=1e-12, atol=0)


def test_a_fixed_point_without_mixing_is_an_exponential_mean():
    layer = FixedPointRNN(D, d_state=3, rank=0, hidden_dependence=[], dtype=torch.float64)
    with torch.no_grad():
        layer.proj_in.weight.zero_()  # lambda = 1/2
    age = torch.arange(5)[:, None] - torch.arange(5)
    numbers = torch.where(age >= 0, 0.5 ** (age.double() + 1), 0)
    expected = numbers[..., None, None] * torch.eye(3, dtype=torch.float64)
    torch.testing.assert_close(mixing_matrix(layer, inputs(5))[:, 0], expected.expand(2, 5, 5, 3, 3))


def test_the_direct_path_is_on_the_diagonal():
    layer, x = Mamba(D, dtype=torch.float64), inputs(4)
    before = mixing_matrix(layer, x)
    with torch.no_grad():
        layer.D.add_(3)
    torch.testing.assert_close(mixing_matrix(layer, x) - before, (3 * torch.eye(4).double()).expand_as(before))


def test_gradients_pass():
    layer = DenseRNN(D, d_state=3, dtype=torch.float64)
    mixing_matrix(layer, inputs(4)).square().sum().backward()
    assert layer.proj_transition.weight.grad.abs().sum() > 0


def test_a_mixer_of_ones_own():
    class Mean(TokenMixer):
        def mix(self, x, state, cu_seqlens):
            return x.cumsum(1), state

    layer = Mean(D)
    with pytest.raises(ValueError, match="Mean has no mixing matrix"):
        mixing_matrix(layer, inputs(3))

    @register_linear_form(Mean)
    def mean(layer, x):
        ones = torch.ones(*x.shape, 1, 1, dtype=x.dtype)
        return Recurrence(x[..., None, None], lambda o: o[..., 0, 0], lambda t: ones[:, t, :, 0], ones, ones)

    assert mixing_matrix(layer, inputs(3)).equal(torch.ones(3, 3).double().tril().expand(2, D, 3, 3))


def test_what_does_not_fit_is_told():
    assert {"gru", "lstm", "m2rnn", "slstm"} == NOT_LINEAR
    with pytest.raises(ValueError, match="LSTM has no mixing matrix: it is not linear in its values"):
        mixing_matrix(LSTM(D), inputs(3).float())
    with pytest.raises(ValueError, match=r"x must have shape \(B, T, d_model = 8\) and hold a token"):
        mixing_matrix(LRU(D), torch.zeros(2, 3, 4))
    with pytest.raises(ValueError, match="and hold a token"):
        mixing_matrix(LRU(D), torch.zeros(2, 0, 8))
    with pytest.raises(ValueError, match="layer must be a TokenMixer, got a Linear"):
        mixing_matrix(torch.nn.Linear(8, 8), inputs(3))
