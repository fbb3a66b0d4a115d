"""mLSTM: published numbers, the paper's stabilised form, and gates that a cap holds."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import layer_norm, silu

from seqmix import MLSTM


def test_is_the_stabilised_form_of_the_paper():
    torch.manual_seed(0)
    layer, x = MLSTM(8, n_heads=2, dtype=torch.float64), torch.randn(1, 9, 8, dtype=torch.float64)
    with torch.no_grad():
        layer.gate_proj.weight.normal_()
    log_i, log_f = (gate[0] for gate in layer.gates(x))
    *qkv, z = layer.in_proj(x[0]).chunk(4, -1)
    q, k, v = (t.view(9, 2, 4) for t in qkv)
    C, n, m, rows = torch.zeros(2, 4, 4).double(), torch.zeros(2, 4).double(), torch.zeros(2).double(), []
    for t in range(9):
        most = torch.maximum(log_f[t] + m, log_i[t])
        f, i, m = (log_f[t] + m - most).exp()[:, None], (log_i[t] - most).exp()[:, None], most
        C = f[..., None] * C + (i * k[t] / 2)[..., None] * v[t][:, None]
        n = f * n + i * k[t] / 2
        least = torch.maximum((n * q[t]).sum(-1).abs(), (-m).exp())
        h = layer_norm((C * q[t][..., None]).sum(1) / least[:, None], (4,), eps=1e-6)
        rows.append(layer.out_proj(z[t].sigmoid() * h.flatten()))
    torch.testing.assert_close(layer(x)[0][0], torch.stack(rows), rtol=1e-9, atol=1e-11)


def test_published_values():
    """Of three tokens, here unit vectors whose q, k, v and gates are columns of the weights of one head."""
    layer, x = MLSTM(4, n_heads=4, expand_k=2, dtype=torch.float64), torch.eye(4, dtype=torch.float64)[None, :3]
    layer.gate_cap = 1e6
    columns = {0: [[1, 0, 1], [0, 1, 1]], 8: [[0.6, 1, 0.8], [0.8, 0, -0.6]], 16: [[1, 2, -1]]}  # q, k, v
    with torch.no_grad():
        layer.gate_proj.bias.zero_()
        for row, values in columns.items():
            layer.in_proj.weight[row : row + len(values), :3] = torch.tensor(values, dtype=torch.float64)
        layer.gate_proj.weight[0, :3], layer.gate_proj.weight[4, :3] = torch.tensor([[0, 3, -1], [2, 0, 4]]).double()
    o = layer.linear_form(x).read()[0, :, 0, 0]  # (T, V + 1)
    h = o[:, 0] / o[:, 1].abs().clamp_min(1)
    torch.testing.assert_close(h, torch.tensor([0.424264, 0.282843, 1.955669]).double(), rtol=0, atol=1e-6)
    expected = torch.tensor([[27.894549, 14.363589], [0.433833, 0.121677]]).double()
    torch.testing.assert_close(layer(x)[1].C[0, 0], expected, rtol=0, atol=1e-5)


def test_queries_and_keys_see_the_convolution_and_values_the_token():
    torch.manual_seed(0)
    layer, x = MLSTM(8, n_heads=2, d_conv=3, dtype=torch.float64), torch.randn(1, 9, 8, dtype=torch.float64)
    plain = MLSTM(8, n_heads=2, dtype=torch.float64)
    assert layer.conv_weight is not None and layer.conv_bias is not None
    with torch.no_grad():
        layer.conv_weight.normal_()
        layer.conv_bias.normal_()
        rows = [sum(layer.conv_weight[:, 2 - i] * x[0, t - i] for i in range(min(3, t + 1))) for t in range(9)]
        u = silu(torch.stack(rows) + layer.conv_bias)[None]
        weights = {name: value for name, value in layer.state_dict().items() if not name.startswith("conv")}
        plain.load_state_dict(weights)
        from_u, from_x = plain.linear_form(u), plain.linear_form(x)
        # Gates see the token, so keys of u are taken apart from the gates of u and given those of x.
        gates = (layer.gates(x)[0] - layer.gates(u)[0]).exp()[..., None, None]
        mixed = replace(from_x, write=from_u.write * gates, readout=from_u.readout)
        torch.testing.assert_close(layer(x)[0], mixed.output(mixed.read()), rtol=1e-9, atol=1e-11)


def test_open_gates_stay_within_float32():
    layer = MLSTM(8)
    with torch.no_grad():
        layer.gate_proj.bias.fill_(1e4)  # i at its cap, f at one
    x = torch.randn(1, 2000, 8, requires_grad=True)
    y, state = layer(x)
    y.sum().backward()
    assert y.isfinite().all() and state.C.isfinite().all() and x.grad.isfinite().all()
    assert layer.diagnostics(x)["input_gates"].max() <= 15


def test_a_cap_out_of_range_is_named():
    with pytest.raises(ValueError, match=r"gate_cap must be in \(0, 60\], got 100"):
        MLSTM(8, gate_cap=100)
