"""`DeltaNet`: the equations in every variant, eigenvalues, and S3 by two reflections set by hand."""

import itertools

import pytest
import torch
from einops import rearrange
from torch.nn.functional import conv1d, pad, silu, softplus

from seqmix.mixers import DeltaNet


def normalize(x: torch.Tensor) -> torch.Tensor:
    """Of length one but for flash-linear-attention's epsilon."""
    return x / (x.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def build(*args, **options):
    torch.manual_seed(0)
    return DeltaNet(*args, dtype=torch.float64, **options)


def tokens(length, d_model=8, batch=2):
    return torch.randn(batch, length, d_model, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


VARIANTS = {
    "plain": {},
    "signed": {"eigenvalues": "signed"},
    "gated": {"gated": True, "output_gate": True},
    "product": {"n_householder": 3, "eigenvalues": "signed", "gated": True},
    "no convolution": {"d_conv": 1, "expand_v": 2.0},
    "rotating": {"position": "selective-rope", "n_householder": 2},
}


@pytest.mark.parametrize("options", VARIANTS.values(), ids=list(VARIANTS))
def test_equals_the_equations(options):
    layer, x = build(8, 2, **options), tokens(15)
    n, wide = layer.n_householder, layer.d_value
    qkv = x @ layer.in_proj.weight.T
    if layer.d_conv > 1:
        channels = qkv.shape[-1]
        qkv = silu(conv1d(pad(qkv.mT, (3, 0)), layer.conv_weight[:, None], groups=channels).mT)
    else:
        qkv = silu(qkv)
    q, k, v = qkv.split((8, 8 * n, 2 * wide * n), dim=-1)
    k, v = (rearrange(t, "b t (n h k) -> b t n h k", n=n, h=2) for t in (k, v))
    q = rearrange(q, "b t (h k) -> b t h k", h=2)
    if layer.position_name:
        start = layer.init_state(2)
        omega, _ = layer.position.increments(x, start.window, None)
        angle = omega.cumsum(1)
        turn = torch.polar(torch.ones_like(angle), angle)
        pairs = torch.complex(*q.chunk(2, -1)) * turn
        q = torch.cat((pairs.real, pairs.imag), -1)
        pairs = torch.complex(*k.chunk(2, -1)) * turn[:, :, None]
        k = torch.cat((pairs.real, pairs.imag), -1)
    q, k = normalize(q) / 2, normalize(k)
    beta = rearrange((x @ layer.beta_proj.weight.T).sigmoid(), "b t (h n) -> b t h n", n=n)
    beta = 2 * beta if layer.eigenvalues == "signed" else beta
    S, expected = torch.zeros(2, 2, 4, wide, dtype=torch.float64), []
    eye = torch.eye(4, dtype=torch.float64)
    for t in range(15):
        if layer.gated:
            g = -layer.A_log.exp() * softplus(x[:, t] @ layer.decay_proj.weight.T + layer.dt_bias)
            S = g.exp()[..., None, None] * S
        for i in range(n):
            key, b = k[:, t, i, :, :, None], beta[:, t, :, i, None, None]
            S = (eye - b * key * key.mT) @ S + b * key * v[:, t, i, :, None]
        o = (S * q[:, t, :, :, None]).sum(-2)
        o = (o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm_weight).flatten(1)
        if layer.gate_proj is not None:
            o = o * silu(x[:, t] @ layer.gate_proj.weight.T)
        expected.append(o @ layer.out_proj.weight.T)
    y, state = layer(x)
    torch.testing.assert_close(y, torch.stack(expected, 1), rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(state.S, S, rtol=1e-9, atol=1e-11)


def test_eigenvalues_lie_where_they_should():
    x = 30 * tokens(50)
    for eigenvalues, low in (("positive", 0.0), ("signed", -1.0)):
        values = build(8, 2, eigenvalues=eigenvalues).diagnostics(x)["eigenvalues"]
        assert values.shape == (2, 50, 2, 4)
        assert values.min() >= low - 1e-12 and values.max() <= 1 + 1e-12
        assert (values.min() < -0.5) == (eigenvalues == "signed")
    values = build(8, 2, 2, "signed").diagnostics(x)["eigenvalues"]
    assert values.is_complex() and values.abs().max() <= 1 + 1e-9 and values.imag.abs().max() > 0.1
    assert build(8, 2, gated=True).diagnostics(x / 30)["eigenvalues"].max() < 1


def test_two_reflections_do_s3_and_one_does_not():
    """Tokens are one-hot; beta saturates at 0 or 2, keys are differences of basis vectors: each token a permutation."""
    group = list(itertools.permutations(range(3)))
    swaps = {(0, 1): [1.0, -1, 0], (0, 2): [1.0, 0, -1], (1, 2): [0, 1.0, -1]}
    eye = torch.eye(3, dtype=torch.float64)
    layer = build(7, 1, 2, "signed", d_conv=1)  # six elements and BOS, keys of width 7
    key_rows, betas = torch.zeros(2, 7, 7).double(), torch.full((2, 7), -100.0).double()
    for element, permutation in enumerate(group):
        matrix = eye[list(permutation)]
        factors = next(
            pair
            for size in (0, 1, 2)
            for pair in itertools.product(swaps, repeat=size)
            if torch.equal(_product([_swap(eye, s) for s in pair], eye), matrix)
        )
        for i, swap in enumerate(factors):
            key_rows[i, :3, element] = torch.tensor(swaps[swap], dtype=torch.float64)
            betas[i, element] = 100.0
    elements = torch.randint(6, (300,))
    S = torch.randn(1, 1, 7, 7, dtype=torch.float64)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.zero_()
        layer.beta_proj.weight.copy_(betas)
    x = torch.nn.functional.one_hot(elements, 7).double()[None]
    keys = torch.nn.functional.normalize(torch.einsum("ikd,btd->ibtk", key_rows, x), dim=-1)
    q = torch.zeros(1, 300, 1, 7, dtype=torch.float64)
    # Keys with both signs go in behind the projection, whose silu a network learns to undo.
    parts = (q, [k[:, :, None] for k in keys], torch.zeros(1, 300, 1, 2, 7, dtype=torch.float64))
    kept = layer.init_state(1)[1:]
    layer._project = lambda *args: (*parts, kept)
    _, state = layer(x, layer.init_state(1)._replace(S=S))
    expected = S[0, 0, :3]
    for element in elements.tolist():
        expected = eye[list(group[element])] @ expected
    torch.testing.assert_close(state.S[0, 0, :3], expected, rtol=0, atol=1e-10)
    with pytest.raises(StopIteration):  # a three-cycle is no single reflection
        next(s for s in swaps if torch.equal(_swap(eye, s), eye[[1, 2, 0]]))


def _swap(eye, pair):
    order = list(range(3))
    order[pair[0]], order[pair[1]] = pair[1], pair[0]
    return eye[order]


def _product(matrices, eye):
    for matrix in matrices:
        eye = matrix @ eye
    return eye


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"n_heads": 3}, "n_heads must divide d_model = 16"),
        ({"n_householder": 0}, "n_householder must be a positive integer"),
        ({"eigenvalues": "negative"}, "eigenvalues must be one of 'positive', 'signed'"),
        ({"position": "alibi"}, "position must be one of"),
        ({"n_heads": 16, "position": "rope"}, "position='rope' needs an even width"),
        ({"d_conv": 0}, "d_conv must be a positive integer"),
        ({"expand_v": 0}, "expand_v must make a whole number of channels"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        DeltaNet(16, **arguments)
