"""sLSTM: the published equations unit by unit, its op, and where a sequence begins."""

import importlib.util
import math

import pytest
import torch
from torch.nn.functional import layer_norm

from seqmix import SLSTM
from seqmix.kernels import backend
from seqmix.kernels.slstm.api import _slstm, slstm
from tests.kernels.harness import assert_rule, assert_triton


def cell(p, R, h, c, n, m, first):
    """One unit that sees itself, in numbers: p and R are its gates i, f, z, o."""
    i, f, z, o = (a + b * h for a, b in zip(p, R, strict=True))
    log_f = -math.log1p(math.exp(-f))
    most = i if first else max(i, log_f + m)
    forget = 0.0 if first else math.exp(log_f + m - most)
    c, n = forget * c + math.exp(i - most) * math.tanh(z), forget * n + math.exp(i - most)
    return c / n / (1 + math.exp(-o)), c, n, most


def test_published_values():
    rows = [(0.5, 1, 1, 0), (2, -1, -1, 1), (-3, 3, 0.5, -1)]
    p = torch.tensor(rows, dtype=torch.float64).view(1, 3, 1, 4, 1)
    R, state = torch.full((1, 1, 4, 1), 0.5, dtype=torch.float64), torch.zeros(1, 4, 1, 1, dtype=torch.float64)
    h, final = slstm(p, R, state, None)
    expected = torch.tensor([0.380797, -0.454301, -0.133433], dtype=torch.float64)
    torch.testing.assert_close(h.flatten(), expected, rtol=0, atol=1e-6)
    expected = torch.tensor([-0.624853, 1.06152, 2.129789], dtype=torch.float64)
    torch.testing.assert_close(final[0, 1:].flatten(), expected, rtol=0, atol=1e-6)
    numbers = (0.0, 0.0, 0.0, 0.0)
    for t, row in enumerate(rows):
        numbers = cell(row, (0.5,) * 4, *numbers, first=t == 0)
        assert h[0, t].item() == pytest.approx(numbers[0], rel=1e-12)


def test_is_the_recurrence_of_the_paper():
    torch.manual_seed(0)
    layer, x = SLSTM(6, 4, n_heads=2, d_conv=1, dtype=torch.float64), torch.randn(1, 7, 6, dtype=torch.float64)
    u = torch.nn.functional.silu(x * layer.conv_weight[:, 0] + layer.conv_bias)
    h, c, n, m = (torch.zeros(2, 2, dtype=torch.float64) for _ in range(4))
    rows = []
    for t in range(7):
        p = torch.empty(2, 4, 2, dtype=torch.float64)
        for head in range(2):
            for gate, seen in enumerate((u, u, x, x)):
                p[head, gate] = layer.weight[gate, head] @ seen[0, t, 3 * head : 3 * head + 3]
                p[head, gate] += layer.R[head, :, gate].mT @ h[head] + layer.bias[head, gate]
        after = torch.tensor(
            [
                [cell(p[k, :, j].tolist(), (0,) * 4, 0, c[k, j], n[k, j], m[k, j], t == 0) for j in range(2)]
                for k in range(2)
            ],
            dtype=torch.float64,
        )
        h, c, n, m = after.unbind(-1)
        rows.append(layer.out_proj(layer_norm(h, (2,)).flatten() * layer.norm_weight))
    torch.testing.assert_close(layer(x)[0][0], torch.stack(rows), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("lengths", [None, [3, 0, 4]], ids=str)
def test_op(lengths):
    torch.manual_seed(1)
    sequences = 2 if lengths is None else 3
    p, R, state = torch.randn(2 if lengths is None else 1, 7, 2, 4, 3), torch.randn(2, 3, 4, 3), torch.randn(4, 2, 3)
    state = torch.stack([state + 0.1 * s for s in range(sequences)])
    state[:, 2] = state[:, 2].abs() + 0.1
    operands = [t.double().requires_grad_() for t in (p, R, state)]
    cu_seqlens = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    torch.autograd.gradcheck(lambda *args: _slstm(*args, cu_seqlens, "cpu")[:2], operands, fast_mode=True)
    with backend("reference"):
        expected = slstm(*operands, cu_seqlens)
    torch.testing.assert_close(slstm(*operands, cu_seqlens), expected, rtol=1e-10, atol=1e-12)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(_slstm.op, (*operands, cu_seqlens, "cpu"), test_utils=tests)


def test_error_rule_float32():
    torch.manual_seed(2)
    operands, found = (2 * torch.randn(3, 100, 2, 4, 5), torch.randn(2, 5, 4, 5) / 2, torch.zeros(3, 4, 2, 5)), []
    for dtype, name in ((torch.float32, None), (torch.float32, "reference"), (torch.float64, "reference")):
        given = [t.to(dtype).requires_grad_() for t in operands]
        with backend(name):
            h, final = slstm(*given, None)
        gradients = torch.autograd.grad(h.sin().sum() + final.sum(), given)
        found.append(dict(zip(("h", "final", "p", "R", "state"), (h, final, *gradients), strict=True)))
    assert_rule(*found, torch.float32)


def test_a_sequence_begins_by_itself():
    """Beside one that has begun, and with gates that close to e^-200: the first token is taken as it is."""
    layer = SLSTM(4, n_heads=1)
    with torch.no_grad():
        layer.bias[:, 0] = -200
    x = torch.randn(1, 6, 4)
    alone = layer(x[:, 4:])[0]
    _, begun = layer(x[:, :4])
    both = SLSTM.State(*(torch.cat(pair) for pair in zip(begun, layer.init_state(1), strict=True)))
    mixed, final = layer(x[:, 4:].expand(2, -1, -1), both)
    torch.testing.assert_close(mixed[1:], alone)
    packed, _ = layer(torch.cat((x[:, 4:], x[:, 4:]), 1), both, cu_seqlens=torch.tensor([0, 2, 4]).int())
    torch.testing.assert_close(packed[:, 2:], alone)
    assert mixed.isfinite().all() and (final.n >= 1e-6).all()


def test_bad_arguments():
    with pytest.raises(ValueError, match="n_heads must divide d_model = 6 and d_state = 6, got 4"):
        SLSTM(6)
    with pytest.raises(ValueError, match=r"depth must be in \[0, 1\], got 2"):
        SLSTM(8, depth=2)


@pytest.mark.triton
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton")
@pytest.mark.parametrize("lengths", [None, [0, 9, 1, 20, 0]], ids=str)
def test_triton(lengths):
    """By the error rule, and in float64 to rounding; a sequence that has begun; five units."""
    torch.manual_seed(3)
    sequences = 2 if lengths is None else 5
    cu_seqlens = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    p = 2 * torch.randn(2 if lengths is None else 1, 30, 2, 4, 5)
    R, state = torch.randn(2, 5, 4, 5) / 2, torch.zeros(sequences, 4, 2, 5)
    state[-1] = torch.rand(4, 2, 5) + 0.1

    def call(initial_state, **inputs):
        return slstm(**inputs, state=initial_state)

    assert_triton(call, {"p": p, "R": R}, state, cu_seqlens)


@pytest.mark.triton
@pytest.mark.skipif(not importlib.util.find_spec("triton"), reason="needs Triton")
def test_heads_too_wide_for_registers_are_refused():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    p, R, state = (torch.zeros(s, device=device) for s in ((1, 1, 1, 4, 129), (1, 129, 4, 129), (1, 4, 1, 129)))
    with backend("triton"), pytest.raises(NotImplementedError, match="heads of up to 128 units, got 129"):
        slstm(p, R, state, None)
