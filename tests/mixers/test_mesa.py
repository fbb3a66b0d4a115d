"""MesaNet: published numbers, the regression that a token solves, and the gradient of the solution."""

import pytest
import torch
from torch.nn.functional import silu, softplus

from seqmix import Mesa
from seqmix.mixers.mesa import solved_queries


def test_published_values():
    q, k = torch.tensor([[1, 0], [0, 1], [1, 1]]).double(), torch.tensor([[0.6, 0.8], [1, 0], [0.8, -0.6]]).double()
    v, gamma = torch.tensor([1.0, 2, -1]).double(), torch.tensor([1, 0.5, 0.5]).double()
    Lambda, G = torch.full((1, 2), 0.25).double(), torch.zeros(1, 1, 2, 2).double()
    solved, final = solved_queries(
        q[None, :, None], 0.5 * k[None, :, None], k[None, :, None], gamma.log()[None, :, None], Lambda, G, None
    )
    system, F, outputs = torch.zeros(2, 2).double(), torch.zeros(2).double(), []
    for t in range(3):
        system, F = gamma[t] * system + 0.5 * torch.outer(k[t], k[t]), gamma[t] * F + 0.5 * k[t] * v[t]
        outputs.append(F @ torch.linalg.inv(system + 0.25 * torch.eye(2)) @ q[t])
        torch.testing.assert_close(F @ solved[0, t, 0], outputs[-1], rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.stack(outputs), torch.tensor([0.4, 0.090909, 1.318043]).double(), rtol=0, atol=1e-6
    )
    torch.testing.assert_close(final[0, 0], system)


def test_is_ridge_regression_on_all_that_was_read():
    torch.manual_seed(0)
    layer, x = Mesa(6, 1, d_conv=1, dtype=torch.float64), torch.randn(9, 6, dtype=torch.float64)
    with torch.no_grad():
        layer.lambda_raw.normal_()
    qk, v = layer.in_proj(x).split((12, 6), -1)
    q, k = silu(qk * layer.conv_weight[:, 0]).chunk(2, -1)
    q, k = (t / (t.square().sum(-1, keepdim=True) + 1e-6).sqrt() for t in (q, k))
    beta, log_g = (gate[0, :, 0] for gate in layer.gates(x[None]))
    Lambda = 0.25 + softplus(layer.lambda_raw[0])
    weight = beta * (log_g[-1:].new_tensor(0) + log_g.sum() - log_g.cumsum(0)).exp()
    # Rows of weighted keys and of the penalty, which asks for zero.
    A = torch.cat((weight.sqrt()[:, None] * k, Lambda.sqrt().diag()))
    wanted = torch.cat((weight.sqrt()[:, None] * v, torch.zeros(6, 6).double()))
    o = q[-1] @ torch.linalg.lstsq(A, wanted).solution
    y = layer.out_proj(o / (o.square().mean() + 1e-5).sqrt() * layer.norm_weight)
    torch.testing.assert_close(layer(x[None])[0][0, -1], y, rtol=1e-8, atol=1e-10)


def test_the_gradient_is_that_of_the_solution():
    torch.manual_seed(0)
    shapes = [(1, 5, 2, 3)] * 3 + [(1, 5, 2), (2, 3), (1, 2, 3, 3)]
    q, write, k, gate, Lambda, G = (torch.randn(shape, dtype=torch.float64) for shape in shapes)
    given = [t.requires_grad_() for t in (q, 0.2 * write, k, -gate.abs(), Lambda.abs() + 2, 0.1 * G)]
    assert torch.autograd.gradcheck(lambda *args: solved_queries(*args, None), given, fast_mode=True)


def test_bad_arguments():
    with pytest.raises(ValueError, match="n_heads must divide"):
        Mesa(10)
