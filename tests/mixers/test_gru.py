"""The GRU against `nn.GRU`, and its op."""

import pytest
import torch

from seqmix import GRU
from seqmix.kernels import backend
from seqmix.kernels.gru.api import _gru


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-11), (torch.float32, 1e-5)], ids=str)
def test_equals_torch(dtype, tolerance):
    torch.manual_seed(0)
    layer, peer = GRU(6, 5, dtype=dtype), torch.nn.GRU(6, 5, batch_first=True, dtype=dtype)
    with torch.no_grad():
        peer.weight_ih_l0.copy_(layer.weight_ih)
        peer.weight_hh_l0.copy_(layer.weight_hh)
        peer.bias_ih_l0.copy_(layer.bias)
        peer.bias_hh_l0.zero_()
        peer.bias_hh_l0[10:] = layer.bias_n
    x, h0 = (torch.randn(3, *shape, dtype=dtype, requires_grad=True) for shape in ((30, 6), (5,)))
    y, state = layer(x, layer.State(h0))
    hidden, h = peer(x, h0[None])
    found, expected = (y, state.h), (layer.out_proj(hidden), h[0])
    torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
    with backend("reference"):
        torch.testing.assert_close(layer(x, layer.State(h0))[0], y, rtol=tolerance, atol=tolerance)

    upstream = [torch.randn_like(t) for t in expected]
    ours = [x, h0, layer.weight_ih, layer.weight_hh, layer.bias, layer.bias_n]
    theirs = [x, h0, peer.weight_ih_l0, peer.weight_hh_l0, peer.bias_ih_l0, peer.bias_hh_l0]
    gradients, wanted = torch.autograd.grad(found, ours, upstream), torch.autograd.grad(expected, theirs, upstream)
    torch.testing.assert_close(gradients, (*wanted[:5], wanted[5][10:]), rtol=10 * tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("lengths", [None, [3, 0, 4], [0, 0, 7]], ids=str)
def test_op(lengths):
    sequences = 2 if lengths is None else 3
    shapes = [(2 if lengths is None else 1, 7, 3), (sequences, 4), (12, 3), (12, 4), (12,), (4,)]
    operands = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    cu_seqlens = None if lengths is None else torch.tensor([0, *lengths]).cumsum(0).int()
    torch.autograd.gradcheck(lambda *args: _gru(*args, cu_seqlens), operands, fast_mode=True)
    tests = ("test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic")
    torch.library.opcheck(_gru.op, (*operands, cu_seqlens), test_utils=tests)


def test_bad_arguments():
    with pytest.raises(ValueError, match="d_state must be a positive integer"):
        GRU(6, 0)
    with pytest.raises(ValueError, match=r"state.h must be torch.float32 of shape \(2, 5\)"):
        GRU(6, 5)(torch.zeros(2, 3, 6), GRU.State(torch.zeros(2, 4)))
