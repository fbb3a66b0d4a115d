"""M2RNN: published numbers, the equations as a loop, its op, and the gradient that is cut."""

import importlib.util

import pytest
import torch
from torch.nn.functional import silu, softplus

from seqmix import M2RNN
from seqmix.kernels import backend
from seqmix.kernels.m2rnn.api import _m2rnn, m2rnn
from tests.kernels.harness import assert_rule, assert_triton


def loop(q, k, v, f, W, H):
    """One head, token by token."""
    rows = []
    for t in range(len(q)):
        H = f[t] * H + (1 - f[t]) * (H @ W + torch.outer(k[t], v[t])).tanh()
        rows.append(H.mT @ q[t])
    return torch.stack(rows), H


def test_published_values():
    q, k = torch.tensor([[1, 0], [0, 1], [1, 1]]).double(), torch.tensor([[0.6, 0.8], [1, 0], [0.8, -0.6]]).double()
    v, f = torch.tensor([[1, -1], [0.5, 2], [0, 1]]).double(), torch.tensor([0.5, 0.25, 0.75]).double()
    W, H = torch.eye(2).double(), torch.zeros(2, 2).double()
    o, final = m2rnn(*(t[None, :, None] for t in (q, k, v, f)), W[None], H[None, None], None)
    expected = torch.tensor([[0.268525, -0.268525], [0.323255, -0.323255], [0.859761, 0.276957]]).double()
    torch.testing.assert_close(o[0, :, 0], expected, rtol=0, atol=1e-6)
    expected = torch.tensor([[0.539209, 0.701256], [0.320553, -0.424299]]).double()
    torch.testing.assert_close(final[0, 0], expected, rtol=0, atol=1e-6)
    torch.testing.assert_close((o[0, :, 0], final[0, 0]), loop(q, k, v, f, W, H), rtol=1e-12, atol=0)


def test_is_the_recurrence_of_the_paper():
    torch.manual_seed(0)
    layer = M2RNN(8, 2, n_key_heads=1, d_conv=1, dtype=torch.float64)
    x = torch.randn(9, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.W.add_(0.3 * torch.randn_like(layer.W))
        layer.D.normal_()
    qkv, g = layer.in_proj(x).split((4 + 4 + 8, 8), -1)
    q, k, v = silu(qkv * layer.conv_weight[:, 0]).split((4, 4, 8), -1)
    f = torch.exp(-layer.A_log.exp() * softplus(layer.decay_proj(x) + layer.dt_bias))
    heads = [loop(q, k, v[:, s], f[:, h], layer.W[h], torch.zeros(4, 4).double())[0] + layer.D[h] * v[:, s]
             for h, s in enumerate((slice(0, 4), slice(4, 8)))]  # fmt: skip
    o = torch.cat(heads, -1) * silu(g)
    o = o / (o.square().mean(-1, keepdim=True) + 1e-5).sqrt() * layer.norm_weight
    torch.testing.assert_close(layer(x[None])[0][0], layer.out_proj(o), rtol=1e-9, atol=1e-11)


def operands(batch, length, sequences):
    torch.manual_seed(1)
    shapes = [(batch, length, 2, 3), (batch, length, 2, 3), (batch, length, 2, 4), (2, 4, 4), (sequences, 2, 3, 4)]
    q, k, v, W, H = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    f = torch.rand(batch, length, 2, dtype=torch.float64, requires_grad=True)
    return [q, k, v, f, W, H]


@pytest.mark.parametrize("lengths", [None, [3, 0, 4]], ids=str)
def test_op(lengths):
    given = operands(1 if lengths else 2, 7, 3 if lengths else 2)
    cu_seqlens = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    options = (cu_seqlens, float("inf"), "cpu")
    torch.autograd.gradcheck(lambda *args: _m2rnn(*args, *options)[:2], given, fast_mode=True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(_m2rnn.op, (*given, *options), test_utils=tests)


@pytest.mark.parametrize("clip", [None, 0.05])
def test_over_borders_as_the_plain_loop_with_the_gradient_whole_or_cut(clip):
    given, bounds, found = operands(1, 140, 3), torch.tensor([0, 65, 66, 140]).int(), []
    for name in (None, "reference"):
        with backend(name):
            o, H = m2rnn(*given, bounds, clip)
            found.append((o, H, *torch.autograd.grad(o.sin().sum() + H.sum(), given)))
    torch.testing.assert_close(*found, rtol=1e-9, atol=1e-11)


def test_error_rule_float32():
    found = []
    for dtype, name in ((torch.float32, None), (torch.float32, "reference"), (torch.float64, "reference")):
        given = [t.detach().float().to(dtype).requires_grad_() for t in operands(3, 100, 3)]
        with backend(name):
            o, final = m2rnn(*given, None)
        gradients = torch.autograd.grad(o.sin().sum() + final.sum(), given)
        found.append(dict(zip(("o", "final", *"qkvfWH"), (o, final, *gradients), strict=True)))
    assert_rule(*found, torch.float32)


def test_a_cut_gradient_is_not_the_true_one():
    found = []
    for clip in (None, 1e3, 0.05):
        given = operands(1, 20, 1)
        found.append(torch.autograd.grad(m2rnn(*given, None, clip)[0].sum(), given[1])[0])
    torch.testing.assert_close(found[1], found[0])
    assert (found[2] - found[0]).abs().max() > 0.01


def test_states_stay_in_the_unit_interval():
    layer = M2RNN(8, 2)
    with torch.no_grad():
        layer.W.mul_(30)
    assert layer(100 * torch.randn(1, 500, 8))[1].H.abs().max() <= 1


def test_bad_arguments():
    with pytest.raises(ValueError, match="n_key_heads must divide n_heads = 4, got 3"):
        M2RNN(8, n_key_heads=3)
    with pytest.raises(ValueError, match="clip_gradient must be positive or None, got 0"):
        M2RNN(8, clip_gradient=0)


@pytest.mark.triton
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton")
@pytest.mark.parametrize(("lengths", "clip"), [(None, None), ([0, 33, 1, 6, 0], 0.05)], ids=str)
def test_triton(lengths, clip):
    """By the error rule, and in float64 to rounding; over a border of the chunks."""
    cu_seqlens = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    shape = (2, 35, 2) if lengths is None else (1, 40, 5)
    *drawn, state = operands(*shape)

    def call(initial_state, **inputs):
        return m2rnn(**inputs, state=initial_state, clip=clip)

    assert_triton(call, dict(zip("qkvfW", drawn, strict=True)), state, cu_seqlens)


@pytest.mark.triton
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton")
def test_heads_too_wide_for_registers_are_refused():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    shapes = ((1, 1, 1, 2), (1, 1, 1, 2), (1, 1, 1, 65), (1, 1, 1), (1, 65, 65), (1, 1, 2, 65))
    with backend("triton"), pytest.raises(NotImplementedError, match=r"up to 64 keys and values, got \(2, 65\)"):
        m2rnn(*(torch.zeros(s, device=device) for s in shapes), None)
