"""PaTH: scores by products of Householder maps and by the delta rule, in chunks of any size."""

import pytest
import torch
from einops import rearrange
from torch.nn.functional import silu

from seqmix import PaTH
from seqmix.kernels import dplr_delta_rule
from seqmix.mixers import path


def by_products(layer, x):
    """y for one sequence x (T, d_model) by the equations."""
    length, heads = len(x), layer.n_heads
    q, k, v = rearrange(layer.qkv_proj(x), "t (qkv h k) -> qkv t h k", qkv=3, h=heads)
    w = rearrange(silu(layer.w_up(layer.w_down(x)) * layer.conv_weight[:, 0]), "t (h k) -> t h k", h=heads)
    w = w / (w.square().sum(-1, keepdim=True) + 1e-6).sqrt()
    beta, rows = 2 * layer.beta_proj(x).sigmoid(), []
    f = torch.zeros(length, heads).double() if layer.forget_proj is None else layer.forget_proj(x).sigmoid().log()
    for t in range(length):
        o = []
        for h in range(heads):
            scores = torch.empty(t + 1, dtype=torch.float64)
            for j in range(t + 1):
                product = torch.eye(q.shape[-1], dtype=torch.float64)
                for s in range(j + 1, t + 1):
                    H = torch.eye(q.shape[-1], dtype=torch.float64) - beta[s, h] * torch.outer(w[s, h], w[s, h])
                    product = product @ H
                scores[j] = k[j, h] @ product @ q[t, h] / q.shape[-1] ** 0.5 + f[j + 1 : t + 1, h].sum()
            o.append(scores.softmax(0) @ v[: t + 1, h])
        rows.append(layer.out_proj(torch.cat(o)))
    return torch.stack(rows)


@pytest.mark.parametrize("forget_gate", [False, True])
def test_is_the_product_form_of_the_paper(forget_gate):
    torch.manual_seed(0)
    layer = PaTH(8, 2, d_conv=1, forget_gate=forget_gate, dtype=torch.float64)
    x = torch.randn(8, 8, dtype=torch.float64)
    torch.testing.assert_close(layer(x[None])[0][0], by_products(layer, x), rtol=1e-9, atol=1e-11)


def test_scores_are_a_delta_rule_on_places():
    """With a = -beta w, b = w and the place of each key as its value, what is read are the scores."""
    torch.manual_seed(0)
    q, k, w = (torch.randn(1, 2, 9, 4, dtype=torch.float64) for _ in range(3))
    beta, zeros = torch.rand(1, 2, 9, 1, dtype=torch.float64), torch.zeros(1, 2, 9, dtype=torch.float64)
    new = path.Tokens(q, k, k, w, beta, zeros)
    weights, _, _ = path.attend(new, k[:, :, :0], zeros[..., :0], torch.ones(1, 0, dtype=torch.bool))
    places = torch.eye(9, dtype=torch.float64)[None, :, None].expand(1, 9, 2, 9)
    q, k, w, beta = (rearrange(t, "b h t k -> b t h k") for t in (q, k, w, beta))
    scores, _ = dplr_delta_rule(q, k, places, -beta * w, w, torch.zeros_like(q))
    scores = (rearrange(scores, "b t h s -> b h t s") / 2).masked_fill(torch.ones(9, 9).triu(1).bool(), -torch.inf)
    torch.testing.assert_close(weights, scores.softmax(-1), rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("forget_gate", [False, True])
def test_any_chunk_gives_the_same(forget_gate, monkeypatch):
    torch.manual_seed(0)
    layer, x = PaTH(8, 2, forget_gate=forget_gate, dtype=torch.float64), torch.randn(2, 30, 8, dtype=torch.float64)
    found = []
    for chunk in (64, 7, 1):
        monkeypatch.setattr(path, "CHUNK", chunk)
        y, state = layer(x)
        found.append((y, state.k, state.forget, *torch.autograd.grad(y.sin().sum(), list(layer.parameters()))))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-11)


def test_forget_gates_are_part_of_the_state():
    layer = PaTH(8, 2, forget_gate=True, dtype=torch.float64)
    x = torch.randn(1, 11, 8, dtype=torch.float64)
    packed, state = layer(x, cu_seqlens=torch.tensor([0, 4, 4, 11]).int())
    alone, after = layer(x[:, 4:])
    torch.testing.assert_close(packed[:, 4:], alone, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(layer(x, state.select(2))[0], layer(x, after)[0], rtol=1e-9, atol=1e-11)
    assert state.length.tolist() == [4, 0, 7] and layer.state_size(7) == 2 * 8 * 7 + 2 * 7 + 2 * 8


def test_bad_arguments():
    with pytest.raises(ValueError, match="n_heads must divide d_model = 6, got 4"):
        PaTH(6)
