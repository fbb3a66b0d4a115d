"""The LSTM against `nn.LSTM`, and its op."""

import pytest
import torch

from seqmix.kernels.lstm.api import _lstm
from seqmix.mixers import LSTM


def pair(d_model=6, d_state=5, dtype=torch.float64):
    torch.manual_seed(0)
    layer, peer = LSTM(d_model, d_state, dtype=dtype), torch.nn.LSTM(d_model, d_state, batch_first=True, dtype=dtype)
    with torch.no_grad():
        peer.weight_ih_l0.copy_(layer.weight_ih)
        peer.weight_hh_l0.copy_(layer.weight_hh)
        peer.bias_ih_l0.copy_(layer.bias)
        peer.bias_hh_l0.zero_()
    return layer, peer


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=str)
def test_equals_torch(dtype, tolerance):
    layer, peer = pair(dtype=dtype)
    x = torch.randn(3, 70, 6, dtype=dtype, requires_grad=True)
    h0, c0 = (torch.randn(3, 5, dtype=dtype, requires_grad=True) for _ in range(2))
    y, state = layer(x, layer.State(h0, c0))
    hidden, (h, c) = peer(x, (h0[None], c0[None]))
    expected = (layer.out_proj(hidden), h[0], c[0])
    found = (y, state.h, state.c)
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)

    upstream = [torch.randn_like(t) for t in expected]
    ours = (layer.weight_ih, layer.weight_hh, layer.bias)
    theirs = (peer.weight_ih_l0, peer.weight_hh_l0, peer.bias_ih_l0)
    torch.testing.assert_close(
        torch.autograd.grad(found, [x, h0, c0, *ours], upstream),
        torch.autograd.grad(expected, [x, h0, c0, *theirs], upstream),
        rtol=10 * tolerance,
        atol=10 * tolerance,
    )


@pytest.mark.parametrize("lengths", [None, [3, 0, 4], [0, 0, 7], [7, 0, 0]], ids=str)
def test_op(lengths):
    sequences = 2 if lengths is None else 3
    shapes = [(2 if lengths is None else 1, 7, 3), (sequences, 4), (sequences, 4), (16, 3), (16, 4), (16,)]
    operands = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    cu_seqlens = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    torch.autograd.gradcheck(lambda *args: _lstm(*args, cu_seqlens), operands)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(_lstm.op, (*operands, cu_seqlens), test_utils=tests)


def test_starts_with_an_open_forget_gate():
    layer = LSTM(6, 5)
    assert layer.bias[5:10].eq(1).all() and layer.bias.sum() == 5
    assert layer.weight_hh.abs().max() <= 5**-0.5
    assert LSTM(6).d_state == 6 and LSTM(6, 5).state_size() == 10


def test_state_stays_in_float32():
    layer = LSTM(6, 5).bfloat16()
    y, state = layer(torch.randn(2, 7, 6).bfloat16())
    assert y.dtype == torch.bfloat16 and state.h.dtype == state.c.dtype == torch.float32


def test_higher_derivatives_raise_by_name():
    layer, x = LSTM(6, 5), torch.randn(2, 7, 6, requires_grad=True)
    (grad,) = torch.autograd.grad(layer(x)[0].sum(), x, create_graph=True)
    with pytest.raises(NotImplementedError, match="LSTM: second derivatives"):
        grad.sum().backward()
    with pytest.raises(NotImplementedError, match="LSTM: forward-mode AD"):
        torch.func.jvp(lambda x: layer(x)[0], (x.detach(),), (torch.ones_like(x),))


@pytest.mark.parametrize("d_state", [0, -1, 2.0, True])
def test_bad_arguments(d_state):
    with pytest.raises(ValueError, match="d_state must be a positive integer"):
        LSTM(6, d_state)
